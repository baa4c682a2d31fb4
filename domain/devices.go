package domain

func (d *Definition) devices() error { return nil }
