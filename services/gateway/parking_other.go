//go:build !linux

package gateway

import (
	"errors"
	"sync/atomic"
)

// parking exists on Linux only.
type parking struct{ off atomic.Bool }

func (*parking) close()               {}
func (*parking) watch(*session) error { return errors.ErrUnsupported }
func (*parking) forget(*session)      {}
