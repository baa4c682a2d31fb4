package rpc

import (
	"encoding/binary"
	"fmt"
)

// MessageType is the kind of a message (virNetMessageType).
type MessageType uint32

// The kinds of message. The WithFDs kinds begin their payload with the number of file descriptors that follow the message.
const (
	TypeCall         MessageType = 0
	TypeReply        MessageType = 1
	TypeMessage      MessageType = 2 // event or keepalive
	TypeStream       MessageType = 3
	TypeCallWithFDs  MessageType = 4
	TypeReplyWithFDs MessageType = 5
	TypeStreamHole   MessageType = 6
)

// Status says whether a reply or stream packet carries a result, an error or more data (virNetMessageStatus).
type Status uint32

// The statuses. StatusContinue is for stream packets only; one without data is the end of the data.
const (
	StatusOK       Status = 0
	StatusError    Status = 1
	StatusContinue Status = 2
)

// The sizes of messages, in bytes. The length word counts itself.
const (
	lenSize       = 4
	headerSize    = 24
	minMessage    = lenSize + headerSize
	maxMessage    = 32<<20 + lenSize // VIR_NET_MESSAGE_MAX and the length word
	maxPayload    = maxMessage - minMessage
	maxFDs        = 32
	streamPayload = 262120 // what libvirt's own programs put into one stream packet
)

// Header begins every message.
type Header struct {
	Program   uint32
	Version   uint32
	Procedure uint32
	Type      MessageType
	Serial    uint32
	Status    Status
}

func parseHeader(b []byte) Header {
	return Header{
		Program:   binary.BigEndian.Uint32(b),
		Version:   binary.BigEndian.Uint32(b[4:]),
		Procedure: binary.BigEndian.Uint32(b[8:]),
		Type:      MessageType(binary.BigEndian.Uint32(b[12:])),
		Serial:    binary.BigEndian.Uint32(b[16:]),
		Status:    Status(binary.BigEndian.Uint32(b[20:])),
	}
}

// AppendMessage starts a message: room for the length and the header. The payload is appended by the caller and
// FinishMessage writes the length.
func AppendMessage(b []byte, h Header) []byte {
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, h.Program)
	b = binary.BigEndian.AppendUint32(b, h.Version)
	b = binary.BigEndian.AppendUint32(b, h.Procedure)
	b = binary.BigEndian.AppendUint32(b, uint32(h.Type))
	b = binary.BigEndian.AppendUint32(b, h.Serial)
	return binary.BigEndian.AppendUint32(b, uint32(h.Status))
}

// FinishMessage writes the length of the message that b holds from its first byte on. It fails when the message is larger
// than the protocol allows.
func FinishMessage(b []byte) error {
	if len(b) > maxMessage {
		return fmt.Errorf("message of %d bytes exceeds the protocol's limit of %d", len(b), maxMessage)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)))
	return nil
}
