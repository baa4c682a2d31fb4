package monitor

// Event is what a machine tells the monitor's clients. Data may be nil and must be encodable as JSON.
type Event struct {
	Name string
	Data any
}

// Names of events, as QMP has them.
const (
	EventStop         = "STOP"
	EventResume       = "RESUME"
	EventReset        = "RESET"
	EventPowerdown    = "POWERDOWN"
	EventShutdown     = "SHUTDOWN"
	EventPanicked     = "GUEST_PANICKED"
	EventCrashLoaded  = "GUEST_CRASHLOADED"
	EventBalloon      = "BALLOON_CHANGE"
	EventRxFilter     = "NIC_RX_FILTER_CHANGED"
	EventDeleted      = "DEVICE_DELETED"
	EventUnplugError  = "DEVICE_UNPLUG_GUEST_ERROR"
	EventBlockIOError = "BLOCK_IO_ERROR"
	EventVhostUser    = "X_VIRTD_VHOST_USER"
	EventNICBackend   = "X_VIRTD_NIC_BACKEND" // others move a network device's packets than before
)
