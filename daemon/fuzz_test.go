package daemon_test

import (
	"context"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
)

// FuzzProcedures calls every procedure with arbitrary arguments while a domain runs: no crash, no hang, and the daemon still
// answers.
func FuzzProcedures(f *testing.F) {
	b := newTestbed(f)
	dom := startDemo(f, b)
	c := b.client(f, false)
	seed := func(number uint32, args any) {
		raw, err := rpc.Marshal(nil, args)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint16(number), raw)
	}
	seed(rpc.ProcDomainGetXMLDesc, &libvirt.DomainGetXMLDescArgs{Dom: dom})
	seed(rpc.ProcDomainGetVcpus, &libvirt.DomainGetVcpusArgs{Dom: dom, Maxinfo: 2, Maplen: 1})
	seed(rpc.ProcDomainPinVcpuFlags, &libvirt.DomainPinVcpuFlagsArgs{Dom: dom, Cpumap: []byte{1}, Flags: 3})
	seed(rpc.ProcDomainSetMetadata, &libvirt.DomainSetMetadataArgs{Dom: dom, Type: 2, Metadata: libvirt.OptString{"<a/>"}, Key: libvirt.OptString{"k"}, Uri: libvirt.OptString{"u:u"}})
	seed(rpc.ProcDomainSetMemoryFlags, &libvirt.DomainSetMemoryFlagsArgs{Dom: dom, Memory: 300 << 10, Flags: 1})
	seed(rpc.ProcConnectGetAllDomainStats, &libvirt.ConnectGetAllDomainStatsArgs{Doms: []libvirt.Domain{dom}})
	seed(rpc.ProcNodeGetFreePages, &libvirt.NodeGetFreePagesArgs{Pages: []uint32{4}, CellCount: 1})
	seed(rpc.ProcDomainDefineXML, &libvirt.DomainDefineXMLArgs{XML: "<domain type='kvm'><name>x</name></domain>"})
	seed(rpc.ProcDomainBlockStatsFlags, &libvirt.DomainBlockStatsFlagsArgs{Dom: dom, Path: "vda", Nparams: 3})
	seed(rpc.ProcConnectGetDomainCapabilities, &libvirt.ConnectGetDomainCapabilitiesArgs{Machine: libvirt.OptString{"q35"}})
	pool := fuzzedPool(f, b)
	vol := libvirt.StorageVol{Pool: pool.Name, Name: "v"}
	seed(rpc.ProcStorageVolCreateXML, &libvirt.StorageVolCreateXMLArgs{Pool: pool, XML: "<volume><name>v</name><capacity>4096</capacity></volume>"})
	seed(rpc.ProcStorageVolResize, &libvirt.StorageVolResizeArgs{Vol: vol, Capacity: 8192})
	seed(rpc.ProcStoragePoolGetXMLDesc, &libvirt.StoragePoolGetXMLDescArgs{Pool: pool, Flags: 1})
	seed(rpc.ProcConnectStoragePoolEventRegisterAny, &libvirt.ConnectStoragePoolEventRegisterAnyArgs{Pool: libvirt.OptStoragePool{pool}})
	f.Fuzz(func(t *testing.T, number uint16, body []byte) {
		switch number {
		case rpc.ProcConnectClose, rpc.ProcAuthSaslInit, rpc.ProcAuthSaslStart, rpc.ProcAuthSaslStep:
			return // they end the connection, the last three where nobody asked for them: package rpc tests that
		case rpc.ProcDomainOpenConsole, rpc.ProcStorageVolUpload, rpc.ProcStorageVolDownload:
			return // they leave a stream that nobody reads
		case rpc.ProcStoragePoolDefineXML, rpc.ProcStoragePoolCreateXML:
			return // a pool can be over any directory of the host
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		p := rpc.LookupProcedure(rpc.ProgramRemote, uint32(number))
		if p == nil {
			return
		}
		err := c.Call(ctx, rpc.ProgramRemote, uint32(number), rpc.Raw(body), nil)
		if ctx.Err() != nil {
			t.Fatalf("%s does not answer: %v", p.Name, err)
		}
		if err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcConnectGetType, nil, nil); err != nil {
			t.Fatalf("after %s (%v): %v", p.Name, err, err)
		}
	})
}

// fuzzedPool starts a pool in the testbed's directory.
func fuzzedPool(f *testing.F, b *testbed) libvirt.StoragePool {
	l := b.libvirt(f)
	pool, err := l.StoragePoolCreateXML("<pool type='dir'><name>p</name><target><path>"+b.dir+"/pool</path></target></pool>", libvirt.StoragePoolCreateWithBuild)
	if err != nil {
		f.Fatal(err)
	}
	return pool
}
