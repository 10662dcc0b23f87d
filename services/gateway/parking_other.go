//go:build !linux

package gateway

import (
	"errors"
	"sync"
)

// parking there is on Linux only.
type parking struct{ failed sync.Once }

func (*parking) close()               {}
func (*parking) watch(*session) error { return errors.ErrUnsupported }
func (*parking) forget(*session)      {}
