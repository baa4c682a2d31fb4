package rpc

import (
	"context"
	"fmt"
	"reflect"
)

// Handler answers one call. The context ends when the server stops, not when the client leaves: what a client asked for is
// carried out. A nil result is an empty reply. Handlers of one connection run in parallel.
type Handler func(ctx context.Context, call *Call, args any) (any, error)

// Registry holds the handlers. It is filled before a Server uses it and not changed afterwards.
type Registry struct {
	handlers map[uint32][]handling // by program, then procedure number
	onClose  []func(*Conn)
}

// handling is how a procedure is answered.
type handling struct {
	fn    Handler
	quick bool // in the connection's reader
	brief bool // there, too, when its client makes one call at a time
}

// NewRegistry returns an empty registry.
func NewRegistry() *Registry { return &Registry{handlers: map[uint32][]handling{}} }

// Handle registers fn for a procedure. A and R are the procedure's argument and result types, struct{} where it has none.
// It panics when they are not, when the procedure is unknown or already has a handler: those are mistakes in the program.
func Handle[A, R any](r *Registry, program, number uint32, fn func(context.Context, *Call, *A) (*R, error)) {
	handle(r, program, number, handling{}, fn)
}

// HandleQuick is Handle for an fn that answers from memory: it waits for no job, engine or disk. It runs in the reader of
// the connection, which saves handing the call over. Calls behind it on the connection wait for it.
func HandleQuick[A, R any](r *Registry, program, number uint32, fn func(context.Context, *Call, *A) (*R, error)) {
	handle(r, program, number, handling{quick: true}, fn)
}

// HandleBrief is Handle for an fn that takes a moment, as a rule: it may wait for a disk, and behind another call. When no call
// of its lane runs and nothing has arrived behind it, it runs in the reader of the connection too; when it takes longer, the
// calls behind it go on without it.
func HandleBrief[A, R any](r *Registry, program, number uint32, fn func(context.Context, *Call, *A) (*R, error)) {
	handle(r, program, number, handling{brief: true}, fn)
}

func handle[A, R any](r *Registry, program, number uint32, how handling, fn func(context.Context, *Call, *A) (*R, error)) {
	p := LookupProcedure(program, number)
	if p == nil || p.Message {
		panic(fmt.Sprintf("rpc: program %#x has no procedure %d", program, number))
	}
	checkType(p, "arguments", p.Args, reflect.TypeFor[A]())
	checkType(p, "result", p.Ret, reflect.TypeFor[R]())
	table := r.handlers[program]
	for uint32(len(table)) <= number {
		table = append(table, handling{})
	}
	if table[number].fn != nil {
		panic(fmt.Sprintf("rpc: %s has two handlers", p.Name))
	}
	how.fn = func(ctx context.Context, call *Call, args any) (any, error) {
		ret, err := fn(ctx, call, args.(*A))
		if err != nil || p.Ret == nil {
			return nil, err
		}
		return ret, nil
	}
	table[number] = how
	r.handlers[program] = table
}

func checkType(p *Procedure, what string, want, got reflect.Type) {
	if want == nil {
		want = reflect.TypeFor[struct{}]()
	}
	if want != got {
		panic(fmt.Sprintf("rpc: %s: %s are %s, not %s", p.Name, what, want, got))
	}
}

// OnClose registers fn to run once for each connection after its last call has finished.
func (r *Registry) OnClose(fn func(*Conn)) { r.onClose = append(r.onClose, fn) }

// Lookup returns the handler of a procedure, or nil.
func (r *Registry) Lookup(program, number uint32) Handler { return r.lookup(program, number).fn }

func (r *Registry) lookup(program, number uint32) handling {
	table := r.handlers[program]
	if number >= uint32(len(table)) {
		return handling{}
	}
	return table[number]
}
