package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// forward asks others, one after the other, and passes the first answer on as it is.
func (r *Resolver) forward(ctx context.Context, q *question) []byte {
	servers := r.table().servers(q.name, r.host)
	if len(servers) == 0 {
		return refuse(q, dns.RcodeRefused)
	}
	ctx, cancel := context.WithTimeout(ctx, forwardTime)
	defer cancel()
	for _, s := range servers {
		if answer, err := r.ask(ctx, q, netip.AddrPortFrom(s, r.port)); err == nil {
			return answer
		}
		if ctx.Err() != nil {
			break
		}
	}
	return refuse(q, dns.RcodeServerFailure)
}

// ask puts a guest's question to one resolver, from a port and under a number that cannot be guessed.
func (r *Resolver) ask(ctx context.Context, q *question, server netip.AddrPort) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	network := "udp"
	if q.tcp {
		network = "tcp"
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	end, _ := ctx.Deadline()
	if err := conn.SetDeadline(end); err != nil {
		return nil, err
	}
	id := dns.Id()
	out := append([]byte(nil), q.raw...)
	binary.BigEndian.PutUint16(out, id)
	if q.tcp {
		if err := writeTCP(conn, out); err != nil {
			return nil, err
		}
	} else if _, err := conn.Write(out); err != nil {
		return nil, err
	}
	buf := make([]byte, dns.MaxMsgSize)
	for {
		var n int
		if q.tcp {
			n, err = readTCP(conn, buf)
		} else {
			n, err = conn.Read(buf)
		}
		if err != nil {
			return nil, err
		}
		if answers(buf[:n], id, q) {
			binary.BigEndian.PutUint16(buf, q.msg.Id)
			return buf[:n], nil
		}
		if q.tcp {
			return nil, errors.New("answer to another question")
		}
	}
}

// answers reports whether a message is the answer to the question that was asked: whoever guesses a port must guess these too.
func answers(msg []byte, id uint16, q *question) bool {
	var m dns.Msg
	if len(msg) < 12 || binary.BigEndian.Uint16(msg) != id || m.Unpack(msg) != nil || !m.Response || len(m.Question) != 1 {
		return false
	}
	got := m.Question[0]
	return strings.EqualFold(got.Name, q.name) && got.Qtype == q.kind && got.Qclass == dns.ClassINET
}

func writeTCP(w io.Writer, msg []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...))
	return err
}

func readTCP(r io.Reader, buf []byte) (int, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint16(size[:]))
	if n > len(buf) {
		return 0, errors.New("message is too long")
	}
	return io.ReadFull(r, buf[:n])
}

// idleTime is how long a guest may hold a TCP connection without a question.
const idleTime = 10 * time.Second
