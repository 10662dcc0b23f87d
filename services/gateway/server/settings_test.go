package server

import (
	"testing"
	"time"
)

func TestSocketsLeaveFilesForTheRest(t *testing.T) {
	for _, row := range []struct{ setting, files, want int }{
		{100_000, 1 << 20, 100_000},
		{100_000, 20_000, 18_000},
		{1_000, 20_000, 1_000},
		{0, 20_000, 18_000},
		{0, 1, 1},
	} {
		if got := (&Settings{MaxSockets: row.setting}).sockets(row.files); got != row.want {
			t.Errorf("MAX_SOCKETS=%d and %d files: %d sockets, want %d", row.setting, row.files, got, row.want)
		}
	}
}

func TestWrongLimitsStopTheStart(t *testing.T) {
	good := Settings{
		IdentityTTL: time.Hour, Partitions: 64, MaxFrameBytes: 16384, MessageRate: 20, MessageBurst: 40, FrameRate: 200, FrameBurst: 100,
	}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Settings){
		"frame rate":    func(s *Settings) { s.FrameRate = -1 },
		"frame burst":   func(s *Settings) { s.FrameBurst = 0 },
		"message burst": func(s *Settings) { s.MessageBurst = 0 },
		"unused burst":  func(s *Settings) { s.MessageRate, s.MessageBurst = 0, -1 },
		"sockets":       func(s *Settings) { s.MaxSockets = -1 },
		"connect rate":  func(s *Settings) { s.ConnectRate = -1 },
		"connect burst": func(s *Settings) { s.ConnectBurst = -1 },
	} {
		bad := good
		change(&bad)
		if bad.Check() == nil {
			t.Errorf("a wrong %s passes", name)
		}
	}
	good.FrameRate, good.FrameBurst = 0, 0
	if err := good.Check(); err != nil {
		t.Errorf("no limit of frames: %v", err)
	}
}
