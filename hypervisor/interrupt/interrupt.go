package interrupt

// Line is one level-triggered input pin of the interrupt controller. Several devices may share a pin: each takes its own
// Line and the pin is the OR of them.
type Line interface {
	// Set drives this device's share of the pin. Setting the level it already has costs nothing. Safe for
	// concurrent use.
	Set(high bool)
}

// MSI is one message-signalled interrupt with an eventfd behind it. Configure, Mask, Unmask and Close are called by one
// goroutine at a time; Signal by any.
type MSI interface {
	// Configure sets the message (address and data as the guest wrote them to the MSI-X entry). It may be called
	// while signals arrive.
	Configure(address uint64, data uint32) error
	// Mask holds signals back: they stay pending in the eventfd. An MSI starts masked.
	Mask() error
	// Unmask delivers from now on, and at once if a signal came while masked.
	Unmask() error
	// Pending reports whether a signal came while masked.
	Pending() bool
	// FD is the eventfd whose signal raises the interrupt, for the kernel's own back ends. The MSI owns it.
	FD() int
	// Signal raises the interrupt. It does not allocate or lock.
	Signal()
	// Close releases the route and the eventfd.
	Close() error
}

// Controller hands out interrupts of one machine. Safe for concurrent use.
type Controller interface {
	// Line returns a new share of global system interrupt gsi.
	Line(gsi uint32) Line
	// NewMSI allocates a masked message interrupt without a message.
	NewMSI() (MSI, error)
}

// Doorbells lets a guest's write to a device register signal an eventfd inside the kernel (KVM ioeventfd), without an
// exit to the engine.
type Doorbells interface {
	// Bind signals fd at each guest write of any width to the guest physical address gpa.
	Bind(gpa uint64, fd int) error
	// Unbind undoes Bind with the same arguments.
	Unbind(gpa uint64, fd int) error
}

// Level is a level-triggered interrupt that the kernel's back ends drive without the engine: a signal of FD raises its pin,
// and at the guest's end of interrupt the pin is low again and Resample is signalled, so that a device that still asks
// signals once more. One goroutine at a time uses it.
type Level interface {
	// Route connects it to the pin of global system interrupt gsi, which it shares with others; NoPin to none, which
	// lowers its share.
	Route(gsi int) error
	// FD and Resample are eventfds. The Level owns them.
	FD() int
	Resample() int
	// Close releases pin and eventfds.
	Close() error
}

// NoPin is the global system interrupt of a pin that is wired to nothing.
const NoPin = -1

// Levels hands out level-triggered interrupts for the kernel's back ends. Safe for concurrent use.
type Levels interface {
	// NewLevel returns one that is connected to no pin.
	NewLevel() (Level, error)
}
