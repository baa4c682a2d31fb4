package domain

import "virtd/domain/xmltree"

// IsKeyboard reports whether an <input> is a keyboard that the guest gets: one on bus virtio.
func IsKeyboard(input *xmltree.Node) bool {
	return input.Is("input") && input.Attr("type") == "keyboard" && input.Attr("bus") == "virtio"
}

// HasKeyboard reports whether the guest gets a keyboard.
func (d *Definition) HasKeyboard() bool {
	for _, in := range d.doc.Root.Child("devices").All("input") {
		if IsKeyboard(in) {
			return true
		}
	}
	return false
}
