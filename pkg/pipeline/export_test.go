package pipeline

// Limits that tests exceed.
const (
	BatchSize = batchSize
	QueueSize = queueSize
	RunSize   = runSize
)
