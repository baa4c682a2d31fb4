package domain

import (
	"strconv"
	"time"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// readClock completes <clock> and checks it.
func (d *Definition) readClock(root *xmltree.Node) error {
	clock := root.Child("clock")
	if clock == nil {
		clock = root.Append(xmltree.New("clock"))
	}
	setDefault(clock, "offset", "utc")
	if err := d.checkOffset(clock); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, t := range clock.All("timer") {
		name := t.Attr("name")
		if seen[name] {
			return t.Errorf(virterr.XMLError, "timer '%s' is given twice", name)
		}
		seen[name] = true
		if err := d.checkTimer(t, name); err != nil {
			return err
		}
	}
	return nil
}

func (d *Definition) checkOffset(clock *xmltree.Node) error {
	switch clock.Attr("offset") {
	case "timezone":
		zone := clock.Attr("timezone")
		if zone == "" {
			return clock.Errorf(virterr.XMLError, "missing 'timezone' attribute for clock with offset='timezone'")
		}
		if _, err := time.LoadLocation(zone); err != nil && !d.opts.Stored {
			return clock.Errorf(virterr.XMLError, "unknown time zone '%s'", zone)
		}
	case "variable":
		setDefault(clock, "adjustment", "0")
		setDefault(clock, "basis", "utc")
		if _, err := strconv.ParseInt(clock.Attr("adjustment"), 10, 32); err != nil {
			return clock.Errorf(virterr.XMLError, "clock adjustment '%s' is not a number of seconds", clock.Attr("adjustment"))
		}
	case "absolute":
		if _, err := strconv.ParseInt(clock.Attr("start"), 10, 64); err != nil {
			return clock.Errorf(virterr.XMLError, "clock start '%s' is not a time in seconds since 1970", clock.Attr("start"))
		}
	default:
		if adj := clock.Attr("adjustment"); adj != "" && adj != "reset" && !d.opts.Stored {
			return clock.Errorf(virterr.XMLError, "clock adjustment '%s' needs offset='variable'", adj)
		}
	}
	return nil
}

// checkTimer refuses timers that the machine does not have, and leaving out those it cannot be without.
func (d *Definition) checkTimer(t *xmltree.Node, name string) error {
	if d.opts.Stored {
		return nil
	}
	if name == "" {
		return t.Errorf(virterr.XMLError, "timer without name")
	}
	present := t.Attr("present") != "no"
	switch {
	case present && (name == "hpet" || name == "hypervclock"):
		return t.Errorf(virterr.ConfigUnsupported, "timer '%s' is not supported: set present='no'", name)
	case !present && (name == "rtc" || name == "tsc"):
		return t.Errorf(virterr.ConfigUnsupported, "timer '%s' is always present", name)
	case t.Attr("frequency") != "" && name != "tsc":
		return t.Errorf(virterr.ConfigUnsupported, "timer '%s' has no frequency to set", name)
	case t.Attr("tickpolicy") == "catchup" && name != "rtc":
		return t.Errorf(virterr.ConfigUnsupported, "timer '%s' with tickpolicy='catchup' is not supported", name)
	case t.Attr("mode") != "" && name != "tsc":
		return t.Errorf(virterr.ConfigUnsupported, "timer '%s' has no mode to set", name)
	}
	return nil
}
