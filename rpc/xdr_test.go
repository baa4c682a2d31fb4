package rpc

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// allTypes are the argument and result types of every procedure.
func allTypes() []reflect.Type {
	seen := map[reflect.Type]bool{}
	var types []reflect.Type
	for _, table := range [][]Procedure{remoteProcs, qemuProcs, privateProcs} {
		for _, p := range table {
			for _, t := range []reflect.Type{p.Args, p.Ret} {
				if t != nil && !seen[t] {
					seen[t] = true
					types = append(types, t)
				}
			}
		}
	}
	return append(types, typeOf[remoteError]())
}

func TestEveryTypeRoundTrips(t *testing.T) {
	types := allTypes()
	if len(types) < 600 {
		t.Fatalf("only %d types in the tables", len(types))
	}
	for _, typ := range types {
		values := rapid.Custom(func(t *rapid.T) reflect.Value {
			v := reflect.New(typ)
			fill(t, v.Elem(), 0)
			return v
		})
		for seed := range 12 {
			v := values.Example(seed)
			b, err := Marshal(nil, v.Interface())
			if err != nil {
				t.Fatalf("marshal %s: %v", typ, err)
			}
			if len(b)%4 != 0 {
				t.Fatalf("%s takes %d bytes, not a multiple of 4", typ, len(b))
			}
			back := reflect.New(typ)
			if err := Unmarshal(b, back.Interface()); err != nil {
				t.Fatalf("unmarshal %s: %v", typ, err)
			}
			if diff := cmp.Diff(v.Interface(), back.Interface(), cmpopts.EquateEmpty(), cmpopts.EquateNaNs()); diff != "" {
				t.Fatalf("%s changed:\n%s", typ, diff)
			}
		}
	}
}

// fill sets v to something that its limits allow.
func fill(t *rapid.T, v reflect.Value, limit uint32) {
	if v.Type() == typedParamValue {
		v.Set(reflect.ValueOf(drawParam(t)))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		limits := fieldLimits[v.Type()]
		for i := range v.NumField() {
			l, _ := limitOf(v.Type().Field(i), limits)
			fill(t, v.Field(i), l)
		}
	case reflect.Slice:
		n := uint64(3)
		if optionals[v.Type()] {
			n = 1
		}
		if limit > 0 {
			n = min(n, uint64(limit))
		}
		v.Set(reflect.MakeSlice(v.Type(), int(rapid.Uint64Range(0, n).Draw(t, "n")), int(n)))
		fallthrough
	case reflect.Array:
		for i := range v.Len() {
			fill(t, v.Index(i), 0)
		}
	case reflect.String:
		v.SetString(rapid.StringMatching(`[a-zäß]{0,9}`).Draw(t, "s"))
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(rapid.Int64().Draw(t, "i") >> (64 - v.Type().Bits()))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(rapid.Uint64().Draw(t, "u") >> (64 - v.Type().Bits()))
	default:
		t.Fatalf("no generator for %s", v.Type())
	}
}

func drawParam(t *rapid.T) libvirt.TypedParamValue {
	d := rapid.Uint32Range(1, 7).Draw(t, "type")
	p := libvirt.TypedParamValue{D: d}
	switch d {
	case paramInt, paramBoolean:
		p.I = rapid.Int32().Draw(t, "int")
	case paramUint:
		p.I = rapid.Uint32().Draw(t, "uint")
	case paramLlong:
		p.I = rapid.Int64().Draw(t, "llong")
	case paramUllong:
		p.I = rapid.Uint64().Draw(t, "ullong")
	case paramDouble:
		p.I = rapid.Float64().Draw(t, "double")
	default:
		p.I = rapid.StringMatching(`[a-z]{0,5}`).Draw(t, "string")
	}
	return p
}

func TestWireForm(t *testing.T) {
	uuid := libvirt.UUID{0: 0xaa, 15: 0xbb}
	tests := []struct {
		name string
		v    any
		want string
	}{
		{"string is padded", &libvirt.ConnectGetHostnameRet{Hostname: "abcde"}, "00000005 6162636465000000"},
		{"optional absent", &libvirt.ConnectOpenArgs{}, "00000000 00000000"},
		{"optional present", &libvirt.ConnectOpenArgs{Name: libvirt.OptString{"q"}, Flags: 1}, "00000001 00000001 71000000 00000001"},
		{"uuid is opaque, id signed", &libvirt.Domain{Name: "", UUID: uuid, ID: -1}, "00000000 aa0000000000000000000000000000bb ffffffff"},
		{"char takes four bytes", &libvirt.NodeGetSecurityModelRet{Model: []int8{'a', -1}}, "00000002 00000061 ffffffff 00000000"},
		{"short takes four bytes", &libvirt.DomainGetInfoRet{State: 1, MaxMem: 2, Memory: 3, NrVirtCPU: 4, CPUTime: 5},
			"00000001 0000000000000002 0000000000000003 00000004 0000000000000005"},
		{"typed parameter", &libvirt.TypedParam{Field: "a", Value: *libvirt.NewTypedParamValueUllong(7)}, "00000001 61000000 00000004 0000000000000007"},
		{"typed double", &libvirt.TypedParam{Field: "", Value: *libvirt.NewTypedParamValueDouble(1)}, "00000000 00000005 3ff0000000000000"},
		{"opaque array", &libvirt.DomainPinVcpuArgs{Dom: libvirt.Domain{UUID: uuid}, Vcpu: 1, Cpumap: []byte{3}},
			"00000000 aa0000000000000000000000000000bb 00000000 00000001 00000001 03000000"},
		{"disk errors", &DomainGetDiskErrorsRet{Errors: []DomainDiskError{{"vda", 2}}, Nerrors: 1}, "00000001 00000003 76646100 00000002 00000001"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, err := Marshal(nil, tt.v)
			if err != nil {
				t.Fatal(err)
			}
			if want := strings.ReplaceAll(tt.want, " ", ""); hex.EncodeToString(b) != want {
				t.Errorf("got  %x\nwant %s", b, want)
			}
		})
	}
}

func TestNodeInfoModelIs32Words(t *testing.T) {
	b, err := Marshal(nil, &libvirt.NodeGetInfoRet{})
	if err != nil || len(b) != 128+8+6*4 {
		t.Errorf("NODE_GET_INFO takes %d bytes (%v), want 160", len(b), err)
	}
}

func TestOptionalMarkerInAnyByteOrder(t *testing.T) {
	for _, marker := range []string{"00000001", "01000000", "ffffffff"} {
		raw, _ := hex.DecodeString(marker + "0000000171000000" + "00000000")
		var args libvirt.ConnectOpenArgs
		if err := Unmarshal(raw, &args); err != nil || len(args.Name) != 1 || args.Name[0] != "q" {
			t.Errorf("marker %s: %v, %v", marker, args, err)
		}
	}
}

func TestHostileInput(t *testing.T) {
	tests := []struct {
		name, data, want string
		v                any
	}{
		{"empty", "", "data ends early", &libvirt.ConnectOpenArgs{}},
		{"string longer than the data", "00100000", "data ends early", &libvirt.ConnectGetHostnameRet{}},
		{"string longer than allowed", "ffffffff", "exceeds the limit of 4194304", &libvirt.ConnectGetHostnameRet{}},
		{"array longer than allowed", "00004001", "exceeds the limit of 16384", &libvirt.ConnectListAllDomainsRet{}},
		{"array longer than the data", "00004000", "data ends early", &libvirt.ConnectListAllDomainsRet{}},
		{"no padding", "0000000161", "data ends early", &libvirt.ConnectGetHostnameRet{}},
		{"NUL in string", "0000000261000000", "NUL", &libvirt.ConnectGetHostnameRet{}},
		{"bytes left over", "0000000000000000", "left over", &libvirt.ConnectGetHostnameRet{}},
		{"unknown parameter type", "00000000" + "00000009" + "00000000", "unknown type 9", &libvirt.TypedParam{}},
		{"cpumap longer than allowed", "00000000" + strings.Repeat("00", 16) + "00000000" + "00000000" + "ffffffff", "exceeds the limit", &libvirt.DomainPinVcpuArgs{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			raw, err := hex.DecodeString(tt.data)
			if err != nil {
				t.Fatal(err)
			}
			if err := Unmarshal(raw, tt.v); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestMarshalRefusesWhatNoClientCouldDecode(t *testing.T) {
	doms := make([]libvirt.Domain, 16385)
	for _, v := range []any{
		&libvirt.ConnectListAllDomainsRet{Domains: doms},
		&libvirt.ConnectGetHostnameRet{Hostname: strings.Repeat("x", StringMax+1)},
		&libvirt.ConnectOpenArgs{Name: libvirt.OptString{"a", "b"}},
		&libvirt.TypedParam{Value: libvirt.TypedParamValue{D: paramInt, I: "not an int"}},
		libvirt.ConnectOpenArgs{},
	} {
		if _, err := Marshal(nil, v); err == nil {
			t.Errorf("%T was marshalled", v)
		}
	}
}

func TestDecodedMemoryIsBounded(t *testing.T) {
	data := make([]byte, 1<<20) // all zero: as many empty things as fit
	for _, typ := range allTypes() {
		copy(data, []byte{0, 0, 0x40, 0})
		v := reflect.New(typ)
		_ = Unmarshal(data, v.Interface()) // must return, without a huge allocation
	}
}

func TestShortIsReported(t *testing.T) {
	var v libvirt.Domain
	if err := Unmarshal([]byte{0, 0, 0}, &v); !errors.Is(err, ErrShort) {
		t.Errorf("got %v, want ErrShort", err)
	}
}

func FuzzUnmarshal(f *testing.F) {
	types := allTypes()
	for i, typ := range types {
		if i%40 == 0 {
			b, err := Marshal(nil, reflect.New(typ).Interface())
			if err == nil {
				f.Add(uint16(i), b)
			}
		}
	}
	f.Add(uint16(3), []byte{1, 0, 0, 0, 0, 0, 0, 1, 'q', 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, i uint16, data []byte) {
		typ := types[int(i)%len(types)]
		v := reflect.New(typ)
		if Unmarshal(data, v.Interface()) != nil {
			return
		}
		b, err := Marshal(nil, v.Interface())
		if err != nil {
			t.Fatalf("%s decodes but does not encode: %v", typ, err)
		}
		again := reflect.New(typ)
		if err := Unmarshal(b, again.Interface()); err != nil {
			t.Fatalf("%s: own encoding does not decode: %v", typ, err)
		}
	})
}

func BenchmarkMarshalDomainState(b *testing.B) {
	ret := &libvirt.DomainGetStateRet{State: 1, Reason: math.MaxInt32}
	buf := make([]byte, 0, 64)
	b.ReportAllocs()
	for range b.N {
		if _, err := Marshal(buf, ret); err != nil {
			b.Fatal(err)
		}
	}
}

// The plan of a domain that is written out does what the one by reflection does.
func TestDomainPlan(t *testing.T) {
	general, err := structCodec(domainType, 0)
	if err != nil {
		t.Fatal(err)
	}
	if general.min != domainCodec.min {
		t.Errorf("at least %d bytes, not %d", domainCodec.min, general.min)
	}
	for _, dom := range []libvirt.Domain{
		{Name: "five5", UUID: libvirt.UUID{1, 2, 15: 255}, ID: -1},
		{ID: 1<<31 - 1},
		{Name: strings.Repeat("x", StringMax+1)},
	} {
		for _, v := range []reflect.Value{reflect.ValueOf(dom), reflect.ValueOf(&dom).Elem()} {
			want, wantErr := general.enc([]byte{7}, v)
			got, err := domainCodec.enc([]byte{7}, v)
			if fmt.Sprint(err) != fmt.Sprint(wantErr) || err == nil && !bytes.Equal(got, want) {
				t.Errorf("%.20q encodes to %x, %v, want %x, %v", dom.Name, got, err, want, wantErr)
			}
		}
		full, err := general.enc(nil, reflect.ValueOf(dom))
		if err != nil {
			continue
		}
		for n := range len(full) + 1 { // whole, and cut short at every byte
			var want, got libvirt.Domain
			d, other := decoder{full[:n]}, decoder{full[:n]}
			wantErr := general.dec(&d, reflect.ValueOf(&want).Elem())
			err := domainCodec.dec(&other, reflect.ValueOf(&got).Elem())
			if got != want || fmt.Sprint(err) != fmt.Sprint(wantErr) || len(d.data) != len(other.data) {
				t.Errorf("%d of %d bytes: %+v, %v, want %+v, %v", n, len(full), got, err, want, wantErr)
			}
		}
	}
}
