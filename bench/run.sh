#!/bin/bash
# run.sh [-n ROUNDS] [BENCHMARK...] - run the benchmarks against QEMU in the lab, one lab boot each, and the one against
# libvirtd on this machine (as root), and print their tables. "net" stands for all whose names begin so. Results are in
# out/bench/. Exit status 1 when a bound was missed, 2 on errors.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
rounds=7
[ "${1:-}" != -n ] || { rounds=$2; shift 2; }
net='net-qemu-1q net-qemu-4q net-vhost-1q net-vhost-4q net-guests-qemu-1q net-guests-qemu-4q net-guests-vhost-1q net-guests-vhost-4q
  net-udp-loss'
[ $# -gt 0 ] || set -- start memory idle disk net vf start-variants libvirtd
list=
for b in "$@"; do [ "$b" != net ] || b=$net; list+=" $b"; done
out=out/bench
mkdir -p "$out"
export CGO_ENABLED=0
go build -trimpath -o "$out/virtd-vmm" ./cmd/virtd-vmm
go build -trimpath -o "$out/bench" ./bench
go build -trimpath -ldflags '-s -w' -o "$out/load" ./bench/load
revision=$(git describe --always --dirty)
worst=0
for b in $list; do
  rc=0
  if [ "$b" = libvirtd ]; then
    go build -trimpath -o "$out/virtd" ./cmd/virtd
    tree=$(lab/lab.sh libvirtd)
    BENCH_REVISION=$revision "$out/bench" -n "$rounds" -o "$out" -virtd "$out/virtd" -libvirtd "$tree" libvirtd || rc=$?
    [ $rc -le $worst ] || worst=$rc
    continue
  fi
  # What moves data has a thread of its own next to the vCPU, so the host has a second CPU for it, as hosts have.
  smp=1 huge=260
  case $b in
  net-guests-*-4q) huge=530 smp=2 ;;
  net-guests-*) huge=340 smp=2 ;;
  net-*-4q) huge=280 smp=2 ;;
  disk | net-* | vf) smp=2 ;;
  esac
  LAB_SMP=$smp LAB_SLOTS=0 LAB_HUGE=$huge LAB_TIMEOUT=${LAB_TIMEOUT:-1100} LAB_ENV="BENCH_REVISION=$revision BENCH_MACHINE=lab" \
    lab/lab.sh run -w "$out" ./bench -n "$rounds" -vmm ./virtd-vmm -load ./load "$b" || rc=$?
  [ $rc -le $worst ] || worst=$rc
done
exit $worst
