package network_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// thisHost is the machine that the tests run on, as one of those that talk with each other.
func thisHost(t *testing.T) *guest {
	t.Helper()
	// The thread that runs this; the program's first may belong to a machine.
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	ok(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return &guest{fd: fd}
}

// async calls f in the machine's namespace, beside what else it does.
func (g *guest) async(f func() (string, error)) <-chan outcome {
	done := make(chan outcome, 1)
	go func() {
		runtime.LockOSThread() // ends with the thread
		if err := unix.Setns(g.fd, unix.CLONE_NEWNET); err != nil {
			done <- outcome{"", err}
			return
		}
		seen, err := f()
		done <- outcome{seen, err}
	}()
	return done
}

// outcome is what came back, or why nothing did.
type outcome struct {
	seen string
	err  error
}

const probePort = "7777"

// answer tells everybody who asks by TCP or UDP, of either family, which address the question came from.
func (g *guest) answer(t *testing.T) {
	t.Helper()
	for _, family := range []string{"4", "6"} { // apart: Go takes both at once only where its first look found a loopback
		var tcp net.Listener
		var udp net.PacketConn
		o := <-g.async(func() (_ string, err error) {
			if tcp, err = net.Listen("tcp"+family, ":"+probePort); err == nil {
				udp, err = net.ListenPacket("udp"+family, ":"+probePort)
			}
			return "", err
		})
		ok(t, o.err)
		t.Cleanup(func() { tcp.Close(); udp.Close() })
		go answerWho(tcp)
		go answerDatagrams(udp)
	}
}

// answerDatagrams is answerWho for UDP.
func answerDatagrams(udp net.PacketConn) {
	buf := make([]byte, 16)
	for {
		_, from, err := udp.ReadFrom(buf)
		if err != nil {
			return
		}
		host, _, _ := net.SplitHostPort(from.String())
		_, _ = udp.WriteTo([]byte(host), from)
	}
}

// ask returns the address that another machine sees a question come from, by tcp or udp; by ping it returns nothing. It asks until
// there is an answer, a refusal, or no patience left.
func ask(how string, to netip.Addr, patience time.Duration) (string, error) {
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		seen, err := askOnce(how, to, time.Until(end))
		// Packets get lost, and so does the search for a neighbour on a busy machine.
		if again := errors.Is(err, errAgain) || errors.Is(err, unix.EHOSTUNREACH); !again || time.Now().After(end) {
			return seen, err
		}
	}
}

func askOnce(how string, to netip.Addr, patience time.Duration) (string, error) {
	if how == "ping" {
		return "", pingOnce(to, 200*time.Millisecond)
	}
	end := time.Now().Add(patience)
	conn, err := net.DialTimeout(how, net.JoinHostPort(to.String(), probePort), patience)
	if err != nil {
		return "", err
	}
	return question(conn, how, end)
}

var errAgain = errors.New("no answer yet")

func question(conn net.Conn, how string, end time.Time) (string, error) {
	defer conn.Close()
	if how == "tcp" {
		_ = conn.SetDeadline(end)
		seen, err := io.ReadAll(conn)
		return string(seen), err
	}
	_ = conn.SetDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := conn.Write([]byte("who?")); err != nil {
		return "", err
	}
	buf := make([]byte, 100)
	n, err := conn.Read(buf)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return "", errAgain
	}
	return string(buf[:n]), err
}

// pingOnce sends one echo request (RFC 792, RFC 4443) and waits for its answer.
func pingOnce(to netip.Addr, patience time.Duration) error {
	kind, request, reply := "ip4:icmp", byte(8), byte(0)
	if to.Is6() {
		kind, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	conn, err := net.Dial(kind, to.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	b := binary.BigEndian.AppendUint32([]byte{request, 0, 0, 0}, uint32(time.Now().UnixNano())) // identifier and sequence number
	if to.Is4() {                                                                               // of ICMPv6 the kernel makes the checksum
		binary.BigEndian.PutUint16(b[2:], internetChecksum(b))
	}
	if _, err := conn.Write(b); err != nil {
		return err
	}
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	for buf := make([]byte, 1500); ; {
		n, _, err := conn.(*net.IPConn).ReadFromIP(buf) // without the header of IPv4
		if err != nil {
			return fmt.Errorf("%w from %s to an echo request", errAgain, to)
		}
		if n >= 8 && buf[0] == reply && bytes.Equal(buf[4:8], b[4:8]) {
			return nil
		}
	}
}

// internetChecksum is the one of RFC 1071.
func internetChecksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
