package pipeline

// The limits that tests go beyond.
const (
	BatchSize = batchSize
	QueueSize = queueSize
	RunSize   = runSize
)
