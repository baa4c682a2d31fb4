package main

import (
	"context"
	"fmt"

	"virtd/hostcheck"
	"virtd/hypervisor/kvm"
	"virtd/hypervisor/probe"
)

// checkHost looks at this host as virtd sees it. The probe guest runs for less than a second.
func checkHost(ctx context.Context) hostcheck.Report {
	return hostcheck.Run(ctx, hostcheck.Local(func(ctx context.Context) (hostcheck.Probe, error) {
		sys, err := kvm.Open()
		if err != nil {
			return hostcheck.Probe{}, fmt.Errorf("run the probe guest: %w", err)
		}
		defer sys.Close()
		v, err := probe.Run(ctx, sys)
		return hostcheck.Probe{Linux: v.Linux, Reason: v.Reason}, err
	}))
}
