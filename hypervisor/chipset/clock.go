package chipset

import "time"

// Clock is the machine's time: nanoseconds that pass only while the machine runs. It is safe for concurrent use.
type Clock interface {
	Now() time.Duration
}
