package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"github.com/urfave/cli/v2"
)

func volCommands() []*cli.Command {
	pool := &cli.StringFlag{Name: "pool", Aliases: []string{"p"}, Usage: "the `POOL` it is in", Value: "default"}
	transfer := []cli.Flag{pool,
		&cli.Uint64Flag{Name: "offset", Usage: "begin at this `BYTE` of the volume"},
		&cli.Uint64Flag{Name: "length", Usage: "not more than this many `BYTES`; 0: up to the end"}}
	return []*cli.Command{{
		Name: "vol", Category: "Storage", Usage: "manage the volumes of storage pools",
		Description: "VOLUME is a name in the pool that --pool names, or an absolute path.",
		Subcommands: []*cli.Command{
			{Name: "list", Aliases: []string{"ls"}, Usage: "list a pool's volumes", Flags: []cli.Flag{pool}, Action: withSession(volList), BashComplete: complete()},
			{Name: "create", Usage: "create a volume of zeros, or one over a backing image", ArgsUsage: "NAME [SIZE]",
				Description: "With --backing the size may be left out; it is the backing image's then.\n\n" +
					"    vctl vol create data.img 20GiB --pool images\n" +
					"    vctl vol create demo.qcow2 --format qcow2 --backing /srv/debian.qcow2 --backing-format qcow2",
				Flags: []cli.Flag{pool, &cli.BoolFlag{Name: "allocate", Usage: "reserve its space on disk now (raw)"},
					&cli.StringFlag{Name: "format", Usage: "raw or qcow2", Value: "raw"},
					&cli.StringFlag{Name: "backing", Usage: "show this `VOLUME` or file where nothing was written (qcow2)"},
					&cli.StringFlag{Name: "backing-format", Usage: "what the backing image is: raw or qcow2"}},
				Action: volCreate, BashComplete: complete()},
			{Name: "clone", Usage: "copy a volume, into another format if asked for", ArgsUsage: "VOLUME NAME",
				Flags:  []cli.Flag{pool, &cli.StringFlag{Name: "format", Usage: "raw or qcow2", Value: "raw"}},
				Action: withVolume(volClone), BashComplete: complete(volumeNames)},
			{Name: "info", Usage: "describe a volume", ArgsUsage: "VOLUME", Flags: []cli.Flag{pool}, Action: withVolume(volInfo), BashComplete: complete(volumeNames)},
			{Name: "dumpxml", Usage: "print a volume's XML", ArgsUsage: "VOLUME", Flags: []cli.Flag{pool}, Action: withVolume(volDumpXML), BashComplete: complete(volumeNames)},
			{Name: "delete", Usage: "delete a volume and its data", ArgsUsage: "VOLUME", Flags: []cli.Flag{pool}, Action: withVolume(volDelete), BashComplete: complete(volumeNames)},
			{Name: "resize", Usage: "change a volume's size", ArgsUsage: "VOLUME SIZE",
				Flags: []cli.Flag{pool, &cli.BoolFlag{Name: "shrink", Usage: "allow it to lose its end"},
					&cli.BoolFlag{Name: "allocate", Usage: "reserve its space on disk now"}},
				Action: withVolume(volResize), BashComplete: complete(volumeNames)},
			{Name: "upload", Usage: "write a file into a volume", ArgsUsage: "VOLUME FILE",
				Description: "FILE - is standard input. The data is on the host's disk when the command returns.", Flags: transfer, Action: withVolume(volUpload), BashComplete: complete(volumeNames)},
			{Name: "download", Usage: "write a volume into a file", ArgsUsage: "VOLUME FILE",
				Description: "FILE - is standard output; any other must not exist.", Flags: transfer, Action: withVolume(volDownload), BashComplete: complete(volumeNames)},
		},
	}}
}

// withVolume runs a command's body with the volume that its first argument names.
func withVolume(body func(*cli.Context, *session, libvirt.StorageVol) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		return withSession(func(c *cli.Context, s *session) error {
			v, err := s.volume(c, c.Args().First())
			if err != nil {
				return fmt.Errorf("failed to get volume '%s': %w", c.Args().First(), err)
			}
			return body(c, s, v)
		})(c)
	}
}

// volume finds a volume by path, or by name in the pool that the flag names.
func (s *session) volume(c *cli.Context, arg string) (libvirt.StorageVol, error) {
	if strings.HasPrefix(arg, "/") {
		return s.StorageVolLookupByPath(arg)
	}
	p, err := s.pool(c.String("pool"))
	if err != nil {
		return libvirt.StorageVol{}, err
	}
	return s.StorageVolLookupByName(p, arg)
}

// volumeDescription is what list and info print of a volume.
type volumeDescription struct {
	Name       string `json:"name"`
	Pool       string `json:"pool"`
	Path       string `json:"path"`
	Capacity   uint64 `json:"capacityBytes"`
	Allocation uint64 `json:"allocationBytes"`
}

func (s *session) describeVolume(v libvirt.StorageVol) (volumeDescription, error) {
	path, err := s.StorageVolGetPath(v)
	if err != nil {
		return volumeDescription{}, err
	}
	_, capacity, allocation, err := s.StorageVolGetInfo(v)
	return volumeDescription{Name: v.Name, Pool: v.Pool, Path: path, Capacity: capacity, Allocation: allocation}, err
}

func volList(c *cli.Context, s *session) error {
	p, err := s.pool(c.String("pool"))
	if err != nil {
		return err
	}
	volumes, _, err := s.StoragePoolListAllVolumes(p, 1, 0)
	if err != nil {
		return err
	}
	out := make([]volumeDescription, 0, len(volumes))
	for _, v := range volumes {
		d, err := s.describeVolume(v)
		if err != nil {
			continue // it went away since the list was made
		}
		out = append(out, d)
	}
	return emit(c, out, func(w io.Writer) error {
		rows := make([][]string, 0, len(out))
		for _, d := range out {
			rows = append(rows, []string{d.Name, sizeText(d.Capacity), sizeText(d.Allocation), d.Path})
		}
		return table(w, []string{"Name", "Capacity", "Allocation", "Path"}, rows)
	})
}

func volCreate(c *cli.Context) error {
	backing := c.String("backing")
	if c.NArg() == 1 && backing == "" {
		return errors.New("command 'vol create' requires <size> without --backing; see vctl vol create --help")
	}
	name := c.Args().First()
	size := uint64(0)
	if c.NArg() == 2 {
		var err error
		if size, err = parseSize(c.Args().Get(1)); err != nil {
			return err
		}
	}
	if backing != "" && c.String("backing-format") == "" {
		return errors.New("--backing needs --backing-format raw or qcow2: what an image is, is not guessed from its contents")
	}
	return withSession(func(c *cli.Context, s *session) error {
		p, err := s.pool(c.String("pool"))
		if err != nil {
			return err
		}
		text := &strings.Builder{}
		fmt.Fprintf(text, "<volume><name>%s</name>", escape(name))
		if c.NArg() == 2 {
			fmt.Fprintf(text, "<capacity>%d</capacity>", size)
		}
		kind, err := s.poolType(p)
		if err != nil {
			return err
		}
		if !c.Bool("allocate") && kind != "logical" { // where little space means a volume that breaks when it is used up
			text.WriteString("<allocation>0</allocation>")
		}
		fmt.Fprintf(text, "<target><format type='%s'/></target>", escape(c.String("format")))
		if backing != "" {
			path, err := s.backingPath(c, backing)
			if err != nil {
				return err
			}
			fmt.Fprintf(text, "<backingStore><path>%s</path><format type='%s'/></backingStore>", escape(path), escape(c.String("backing-format")))
		}
		text.WriteString("</volume>")
		if _, err := s.StorageVolCreateXML(p, text.String(), 0); err != nil {
			return fmt.Errorf("failed to create volume '%s': %w", name, err)
		}
		return done(c, "Volume '%s' created in pool '%s'", name, p.Name)
	})(c)
}

// backingPath is the path of a backing image, which is given by path or as a volume's name.
func (s *session) backingPath(c *cli.Context, arg string) (string, error) {
	if strings.HasPrefix(arg, "/") {
		return arg, nil
	}
	v, err := s.volume(c, arg)
	if err != nil {
		return "", fmt.Errorf("failed to get backing volume '%s': %w", arg, err)
	}
	return s.StorageVolGetPath(v)
}

func volClone(c *cli.Context, s *session, v libvirt.StorageVol) error {
	name := c.Args().Get(1)
	p, err := s.pool(v.Pool)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("<volume><name>%s</name><allocation>0</allocation><target><format type='%s'/></target></volume>",
		escape(name), escape(c.String("format")))
	if _, err := s.StorageVolCreateXMLFrom(p, text, v, 0); err != nil {
		return fmt.Errorf("failed to copy volume '%s': %w", v.Name, err)
	}
	return done(c, "Volume '%s' created in pool '%s'", name, p.Name)
}

// escape makes text fit for XML.
func escape(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a Builder takes everything
	return b.String()
}

func volInfo(c *cli.Context, s *session, v libvirt.StorageVol) error {
	d, err := s.describeVolume(v)
	if err != nil {
		return err
	}
	return emit(c, d, func(w io.Writer) error {
		return describe(w, []field{{"Name", d.Name}, {"Pool", d.Pool}, {"Path", d.Path}, {"Capacity", sizeText(d.Capacity)}, {"Allocation", sizeText(d.Allocation)}})
	})
}

func volDumpXML(c *cli.Context, s *session, v libvirt.StorageVol) error {
	text, err := s.StorageVolGetXMLDesc(v, 0)
	if err != nil {
		return err
	}
	return emit(c, map[string]string{"name": v.Name, "xml": text}, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, text)
		return err
	})
}

func volDelete(c *cli.Context, s *session, v libvirt.StorageVol) error {
	if err := s.StorageVolDelete(v, 0); err != nil {
		return fmt.Errorf("failed to delete volume '%s': %w", v.Name, err)
	}
	return done(c, "Volume '%s' deleted", v.Name)
}

func volResize(c *cli.Context, s *session, v libvirt.StorageVol) error {
	size, err := parseSize(c.Args().Get(1))
	if err != nil {
		return err
	}
	var flags libvirt.StorageVolResizeFlags
	if c.Bool("shrink") {
		flags |= libvirt.StorageVolResizeShrink
	}
	if c.Bool("allocate") {
		flags |= libvirt.StorageVolResizeAllocate
	}
	if err := s.StorageVolResize(v, size, flags); err != nil {
		return fmt.Errorf("failed to resize volume '%s': %w", v.Name, err)
	}
	return done(c, "Volume '%s' has %s", v.Name, sizeText(size))
}

func volUpload(c *cli.Context, s *session, v libvirt.StorageVol) error {
	in := c.App.Reader
	if file := c.Args().Get(1); file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	if err := s.StorageVolUpload(v, in, c.Uint64("offset"), c.Uint64("length"), 0); err != nil {
		return fmt.Errorf("failed to upload to volume '%s': %w", v.Name, err)
	}
	return done(c, "Volume '%s' written", v.Name)
}

func volDownload(c *cli.Context, s *session, v libvirt.StorageVol) error {
	fetch := func(w io.Writer) error {
		if err := s.StorageVolDownload(v, w, c.Uint64("offset"), c.Uint64("length"), 0); err != nil {
			return fmt.Errorf("failed to download volume '%s': %w", v.Name, err)
		}
		return nil
	}
	path := c.Args().Get(1)
	if path == "-" {
		return fetch(c.App.Writer)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = fetch(f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		_ = os.Remove(path) // made above, and incomplete
		return err
	}
	return done(c, "Volume '%s' saved in %s", v.Name, path)
}
