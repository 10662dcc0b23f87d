package run

import (
	"fmt"
	"log/slog"
	"os"
)

// NewLogger makes the process's logger. It writes text if out is a terminal, and JSON lines
// otherwise. level is debug, info, warn or error. The logger also becomes slog's default, for
// third-party code.
func NewLogger(out *os.File, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q is not one of debug, info, warn, error", level)
	}
	options := &slog.HandlerOptions{Level: l}
	var handler slog.Handler = slog.NewJSONHandler(out, options)
	if isTerminal(out) {
		handler = slog.NewTextHandler(out, options)
	}
	logger := slog.New(handler)
	slog.SetDefault(logger)
	return logger, nil
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
