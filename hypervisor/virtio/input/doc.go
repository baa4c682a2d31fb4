// Package input is the virtio input device (virtio 1.2, 5.8) as a keyboard without lights.
//
// Keys are numbered as in Linux' input-event-codes.h, which is what the specification refers to. Strokes wait in a bounded
// queue: one is pressed, held and released before the next, so that two strokes of one key are two. The eventq's service does
// all of it, and keeps its times. What the driver says on the statusq is taken and ignored.
//
// The package leaves out pointers, touch screens and lights, and what keys mean. Start reading at Device.
package input
