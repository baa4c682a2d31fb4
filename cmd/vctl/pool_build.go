package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"github.com/urfave/cli/v2"
)

// overwriteFlags say what may be destroyed when a pool is built.
var overwriteFlags = []cli.Flag{
	&cli.BoolFlag{Name: "no-overwrite", Usage: "make a filesystem too, unless there is something on the device"},
	&cli.BoolFlag{Name: "overwrite", Usage: "make a filesystem or volume group whatever is on the devices: that is lost"},
}

func poolCreateCommand() *cli.Command {
	return &cli.Command{
		Name: "create", Usage: "define a pool, make what it is on, start it, and mark it for autostart", ArgsUsage: "NAME [DIRECTORY]",
		Description: "A pool of type dir is a directory. One of type fs is a device or image with a filesystem that is mounted at the directory;\n" +
			"one of type logical is a volume group, and has no directory. Filesystems and volume groups are used as they are unless\n" +
			"--no-overwrite or --overwrite says that they are to be made.\n\n" +
			"    vctl pool create images /srv/images\n" +
			"    vctl pool create data /srv/data --type fs --device /dev/sdb1 --format ext4 --no-overwrite\n" +
			"    vctl pool create vg0 --type logical --device /dev/sdc --overwrite",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "type", Usage: "dir, fs or logical", Value: "dir"},
			&cli.StringSliceFlag{Name: "device", Usage: "the `PATH` of a source device; of type logical more than one"},
			&cli.StringFlag{Name: "format", Usage: "the filesystem (fs): ext4, xfs, ...; without it, what is on the device"},
			&cli.StringFlag{Name: "group", Usage: "the volume group (logical); without it, one that is called as the pool"},
		}, overwriteFlags...),
		Action: poolCreate,
	}
}

// poolXML is the document of a pool that the command line describes.
func poolXML(c *cli.Context) (string, error) {
	kind, name, dir := c.String("type"), c.Args().Get(0), c.Args().Get(1)
	switch {
	case kind != "dir" && kind != "fs" && kind != "logical":
		return "", fmt.Errorf("unknown type of pool: '%s'; there are dir, fs and logical", kind)
	case (dir == "") != (kind == "logical"):
		return "", errors.New("command 'pool create' requires <directory>, but of type logical takes none; see vctl pool create --help")
	case kind == "dir" && (len(c.StringSlice("device")) > 0 || c.String("format") != "" || c.String("group") != ""):
		return "", errors.New("--device, --format and --group are for pools of other types; see vctl pool create --help")
	case kind == "fs" && (len(c.StringSlice("device")) != 1 || c.String("group") != ""):
		return "", errors.New("a pool of type fs takes one --device, and no --group")
	case kind == "logical" && c.String("format") != "":
		return "", errors.New("a pool of type logical takes no --format")
	}
	text := &strings.Builder{}
	fmt.Fprintf(text, "<pool type='%s'><name>%s</name><source>", kind, escape(name))
	for _, path := range c.StringSlice("device") {
		fmt.Fprintf(text, "<device path='%s'/>", escape(path))
	}
	if group := c.String("group"); group != "" {
		fmt.Fprintf(text, "<name>%s</name>", escape(group))
	}
	if format := c.String("format"); format != "" {
		fmt.Fprintf(text, "<format type='%s'/>", escape(format))
	}
	text.WriteString("</source>")
	if dir != "" {
		fmt.Fprintf(text, "<target><path>%s</path></target>", escape(dir))
	}
	return text.String() + "</pool>", nil
}

func poolCreate(c *cli.Context) error {
	text, err := poolXML(c)
	if err != nil {
		return err
	}
	name := c.Args().First()
	flags, err := createFlags(c)
	if err != nil {
		return err
	}
	if c.String("type") != "logical" { // a directory is made where it is missing; a volume group only when asked for
		flags |= libvirt.StoragePoolCreateWithBuild
	}
	return withSession(func(c *cli.Context, s *session) error {
		p, err := s.StoragePoolDefineXML(text, 0)
		if err != nil {
			return fmt.Errorf("failed to define pool '%s': %w", name, err)
		}
		err = s.StoragePoolCreate(p, flags)
		if err == nil {
			err = s.StoragePoolSetAutostart(p, 1)
		}
		if err != nil {
			return fmt.Errorf("pool '%s' is defined, but cannot be started: %w", name, err)
		}
		if dir := c.Args().Get(1); dir != "" {
			return done(c, "Pool '%s' created in %s", name, dir)
		}
		return done(c, "Pool '%s' created", name)
	})(c)
}

// createFlags are those of a start that builds first when it may make something.
func createFlags(c *cli.Context) (libvirt.StoragePoolCreateFlags, error) {
	switch {
	case c.Bool("overwrite") && c.Bool("no-overwrite"):
		return 0, errors.New("--overwrite and --no-overwrite exclude each other")
	case c.Bool("overwrite"):
		return libvirt.StoragePoolCreateWithBuild | libvirt.StoragePoolCreateWithBuildOverwrite, nil
	case c.Bool("no-overwrite"):
		return libvirt.StoragePoolCreateWithBuild | libvirt.StoragePoolCreateWithBuildNoOverwrite, nil
	case c.Bool("build"):
		return libvirt.StoragePoolCreateWithBuild, nil
	}
	return libvirt.StoragePoolCreateNormal, nil
}

func poolStart(c *cli.Context, s *session, p libvirt.StoragePool) error {
	flags, err := createFlags(c)
	if err != nil {
		return err
	}
	return s.StoragePoolCreate(p, flags)
}

func poolBuild(c *cli.Context, s *session, p libvirt.StoragePool) error {
	var flags libvirt.StoragePoolBuildFlags
	if c.Bool("overwrite") {
		flags |= libvirt.StoragePoolBuildOverwrite
	}
	if c.Bool("no-overwrite") {
		flags |= libvirt.StoragePoolBuildNoOverwrite
	}
	return s.StoragePoolBuild(p, flags)
}

// poolType returns dir, fs or logical.
func (s *session) poolType(p libvirt.StoragePool) (string, error) {
	text, err := s.StoragePoolGetXMLDesc(p, libvirt.StorageXMLInactive)
	if err != nil {
		return "", err
	}
	var doc struct {
		Type string `xml:"type,attr"`
	}
	if err := xml.Unmarshal([]byte(text), &doc); err != nil {
		return "", fmt.Errorf("read the XML of pool '%s': %w", p.Name, err)
	}
	return doc.Type, nil
}

// volumeGroup is what sources prints.
type volumeGroup struct {
	Name    string   `json:"name"`
	Devices []string `json:"devices"`
}

func poolSources(c *cli.Context, s *session) error {
	text, err := s.ConnectFindStoragePoolSources("logical", nil, 0)
	if err != nil {
		return err
	}
	var doc struct {
		Sources []struct {
			Name    string `xml:"name"`
			Devices []struct {
				Path string `xml:"path,attr"`
			} `xml:"device"`
		} `xml:"source"`
	}
	if err := xml.Unmarshal([]byte(text), &doc); err != nil {
		return fmt.Errorf("read the list of sources: %w", err)
	}
	out := make([]volumeGroup, 0, len(doc.Sources))
	for _, source := range doc.Sources {
		g := volumeGroup{Name: source.Name}
		for _, d := range source.Devices {
			g.Devices = append(g.Devices, d.Path)
		}
		out = append(out, g)
	}
	return emit(c, out, func(w io.Writer) error {
		rows := make([][]string, 0, len(out))
		for _, g := range out {
			rows = append(rows, []string{g.Name, strings.Join(g.Devices, " ")})
		}
		return table(w, []string{"Group", "Devices"}, rows)
	})
}
