# The sections of .ci/run and .ci/full: shell functions that run one kind of test each, print what they find, and
# leave PASSED and FAILED. A section does not stop at the first failure.

OUT=out/ci
mkdir -p "$OUT"
PASSED=0 FAILED=0
. .ci/clients.sh
export CGO_ENABLED=0
# as the programs are built, so that a new machine compiles everything once
export GOFLAGS="${GOFLAGS:+$GOFLAGS }-trimpath"
PATH=$PATH:/usr/local/go/bin

say() { echo "--- $*"; }

# tally FILE STATUS: count a go test -v log; a package that does not build, or panics, is a failure too.
tally() {
  local pass fail
  pass=$(grep -cE '^ *--- PASS:' "$1" || true)
  fail=$(grep -cE '^ *--- FAIL:|^FAIL\s.*\[(build|setup) failed\]|^panic: ' "$1" || true)
  [ "$2" = 0 ] || [ "$fail" -gt 0 ] || fail=1
  PASSED=$((PASSED + pass)) FAILED=$((FAILED + fail))
  if [ "$fail" -gt 0 ]; then
    # the names first, then what failed with the lines above it, but not a thousand passes and skips. awk reads to the
    # end: under pipefail a "head" that leaves early ends the whole run with SIGPIPE's 141.
    grep -E '^ *--- FAIL:|^FAIL|^panic: |WARNING: DATA RACE|^\*\*\* Test killed' "$1" | awk 'NR <= 60'
    grep -vE '^ *(=== (RUN|PAUSE|CONT|NAME)|--- (PASS|SKIP):)|: needs |^PASS$|^ok |no test files|rapid\] OK' "$1" |
      uniq | awk 'NR <= 300'
  fi
  say "$pass passed, $fail failed"
}

# check NAME COMMAND...: one pass or fail for a command.
check() {
  local name=$1
  shift
  if "$@" >"$OUT/$name.log" 2>&1; then
    PASSED=$((PASSED + 1))
    say "$name: ok"
  else
    FAILED=$((FAILED + 1))
    tail -60 "$OUT/$name.log"
    say "$name: FAILED"
  fi
}

prerequisites() {
  local p missing=()
  for p in make:make git:git gcc:gcc flock:util-linux unshare:util-linux xz:xz-utils tar:tar; do
    command -v "${p%%:*}" >/dev/null || missing+=("${p#*:}")
  done
  # the oracles of unit tests, which skip without them: only root can install them, others are told
  for p in virsh:libvirt-clients xmllint:libxml2-utils iasl:acpica-tools qemu-io:qemu-utils qemu-storage-daemon:qemu-system-common gdb:gdb passt:passt; do
    command -v "${p%%:*}" >/dev/null && continue
    if [ "$(id -u)" = 0 ]; then missing+=("${p#*:}"); else say "tests that need ${p%%:*} (package ${p#*:}) will skip"; fi
  done
  # the clients of libvirt that tests run unmodified. None of these packages starts a service; those that would are only
  # unpacked, below. Where root could install them, a test that does not find them fails (daemon/clients_test.go).
  if ! command -v virt-install >/dev/null || ! /usr/bin/python3 -c 'import libvirt' 2>/dev/null; then
    if [ "$(id -u)" = 0 ]; then missing+=(virtinst python3-libvirt); else say "tests that need virtinst and python3-libvirt will skip"; fi
  fi
  # SCRAM for libvirt's clients
  if ! compgen -G '/usr/lib/*/sasl2/libscram.so' >/dev/null; then
    if [ "$(id -u)" = 0 ]; then missing+=(libsasl2-modules); else say "tests that need libsasl2-modules will skip"; fi
  fi
  # virt-manager, a display for it, and what presses its buttons
  local ui=(virt-manager xvfb xdotool dbus-x11 at-spi2-core gir1.2-atspi-2.0)
  for p in virt-manager Xvfb xdotool dbus-launch; do
    command -v "$p" >/dev/null && continue
    if [ "$(id -u)" = 0 ]; then missing+=("${ui[@]}"); else say "tests that need ${ui[*]} will skip"; fi
    break
  done
  # the race detector links C
  [ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
  [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
  if [ ${#missing[@]} -gt 0 ]; then
    [ "$(id -u)" = 0 ] || { echo "missing: ${missing[*]}; run as root: apt-get install ${missing[*]}" >&2; exit 1; }
    say "installing ${missing[*]}"
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
  fi
  clients >/dev/null || exit 1
  [ "$(id -u)" != 0 ] || export VIRTD_CLIENTS=$CLIENTS
  command -v go >/dev/null || { echo "Go 1.26 or newer is needed: https://go.dev/dl" >&2; exit 1; }
  go version
}

build() {
  check build make -s build
  check vet go vet ./...
  # every package that has code for it also builds for arm64
  check arm64 .ci/arm64
}

# "build" has vetted the tests of all packages too, with more analyzers than go test has. Tests that may run at once mostly wait
# for their clients, so there are more of them than processors.
unit() {
  local rc=0
  say "unit tests"
  go test -vet=off -timeout 400s -p 2 -parallel 4 -v ./... >"$OUT/unit.log" 2>&1 || rc=$?
  tally "$OUT/unit.log" $rc
  skips "$OUT/unit.log"
}

race() {
  local rc=0
  say "the same with the race detector"
  # policy looks at the tree's texts: nothing in it runs at once
  CGO_ENABLED=1 go test -race -vet=off -timeout 500s -short -p 2 -parallel 4 -v $(go list ./... | grep -v '/policy$') >"$OUT/race.log" 2>&1 || rc=$?
  tally "$OUT/race.log" $rc
}

# kvm: the unit tests that need /dev/kvm, in the lab where this machine has none. Where it has, "unit" ran them.
kvm() {
  [ ! -w /dev/kvm ] || { say "this machine has /dev/kvm: ran with the unit tests"; return; }
  local packages
  packages=$(grep -rl --include='*_test.go' 'needs /dev/kvm' . | xargs -rn1 dirname | sort -u | sed 's|^\./||' | paste -sd,)
  # what needs no KVM has run, and some of it wants files that are not there
  LAB_TIMEOUT=1100 lab_package "$packages" -run '^Test' -skip '^(TestLab|TestPlan|TestVCPUPins|TestSeamWithCPUID)' "$@"
}

# skips LOG: name every skipped test with its reason, except those that run in the lab later.
skips() {
  grep -A3 -E '^ *--- SKIP:' "$1" | grep -E 'SKIP:|_test.go:' | awk '
    /SKIP:/ { name = $3; next }
    !/needs the lab/ { sub(/^ */, ""); if (n++ < 40) print "    skipped " name ": " $0 }'
}

# fuzz: every Fuzz function of the tree, FUZZTIME each, behind its seeds. Two packages are searched at a time with a worker
# each, so that one builds while the other searches.
fuzz() {
  local part pass fail
  for part in 0 1; do
    rm -f "$OUT/fuzz-$part.count"
    fuzz_stream $part >"$OUT/fuzz-$part.out" 2>&1 &
  done
  wait
  for part in 0 1; do
    cat "$OUT/fuzz-$part.out"
    read -r pass fail <"$OUT/fuzz-$part.count" || { pass=0 fail=1; }
    PASSED=$((PASSED + pass)) FAILED=$((FAILED + fail))
  done
}

# fuzz_stream PART: the targets of every second package. A package is linked once for all of its targets.
fuzz_stream() {
  local file name pkg last=
  PASSED=0 FAILED=0
  while IFS=: read -r file name; do
    pkg=$(dirname "$file")
    if [ "$pkg" != "$last" ]; then
      rm -f "$OUT/fuzz-$1.test" # so that targets of a package that does not build fail
      go test -c -vet=off -fuzz . -o "$OUT/fuzz-$1.test" "./$pkg" || true
      last=$pkg
    fi
    check "fuzz-$(tr / - <<<"$pkg")-$name" fuzz_target "$PWD/$OUT/fuzz-$1.test" "$pkg" "$name"
  done < <(fuzz_targets | awk -F '/[^/]*:' -v part="$1" '$1 != last { n++; last = $1 } n % 2 == part')
  rm -f "$OUT/fuzz-$1.test"
  echo "$PASSED $FAILED" >"$OUT/fuzz-$1.count"
}

# fuzz_target PROGRAM PACKAGE NAME. A worker that is busy at the instant the time is over makes it fail with "context deadline
# exceeded" alone: no finding, so the target has its time again. A finding names the failing input.
fuzz_target() {
  local out try
  for try in 1 2 3; do
    out=$(cd "$2" && "$1" -test.run '^$' -test.fuzz "^$3\$" -test.fuzztime "${FUZZTIME:-5s}" -test.parallel 1 \
      -test.fuzzcachedir "$(go env GOCACHE)/fuzz/virtd/$2" 2>&1) && break
    if [ $try = 3 ] || grep -qE 'Failing input written|^panic:|fatal error:' <<<"$out" ||
      ! grep -qE '^ *context deadline exceeded$' <<<"$out"; then
      echo "$out"
      return 1
    fi
  done
  echo "$out"
}

fuzz_targets() {
  grep -roE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed 's|^\./||; s/:func /:/' | sort
}

# packages with lab tests, as folders
lab_packages() { grep -rlE --include='*_test.go' '^func TestLab' . | xargs -rn1 dirname | sed 's|^\./||' | sort -u; }

# lab_package FOLDER [test.sh arguments]: one lab boot for the lab tests of one package.
lab_package() {
  local p=$1 rc=0 log
  shift
  log=$OUT/lab-$(tr -c 'a-zA-Z0-9\n' - <<<"$p $*" | cut -c1-150).log
  say "lab: $p $*"
  lab/test.sh "$p" "$@" >"$log" 2>&1 || rc=$?
  local last pass fail
  last=$(grep -E '^lab .*: [0-9]+ passed, [0-9]+ failed$' "$log" | tail -1 || true)
  pass=$(sed -n 's/.*: \([0-9]*\) passed.*/\1/p' <<<"$last")
  fail=$(sed -n 's/.* \([0-9]*\) failed$/\1/p' <<<"$last")
  : "${pass:=0}" "${fail:=1}"
  [ $rc = 0 ] || [ "$fail" -gt 0 ] || fail=1
  PASSED=$((PASSED + pass)) FAILED=$((FAILED + fail))
  [ "$fail" = 0 ] || { tail -80 "$log"; reasons "$log"; }
  say "lab: $p $*: $pass passed, $fail failed"
}

# reasons LOG: what tests said that failed, without the logs that they printed then.
reasons() {
  awk '/^ *--- FAIL:/ || /_test\.go:[0-9]+: / && !/_test\.go:[0-9]+: --- / || /^panic: /' "$1" | tail -40
}

# lab: the lab tests of every package, short, the tests that need KVM, and the demo as an ordinary user. Two workers take
# them from one list, as a lab keeps one core busy.
lab() {
  local worker pass fail
  lab/lab.sh build
  rm -f "$OUT"/lab-worker-*
  lab_jobs >"$OUT/lab-jobs"
  export LAB_SLOTS=2 LAB_TIMEOUT=${LAB_TIMEOUT:-1700}
  for worker in 1 2; do
    lab_worker "$worker" >"$OUT/lab-worker-$worker.out" 2>&1 &
  done
  wait
  for worker in 1 2; do
    cat "$OUT/lab-worker-$worker.out"
    read -r pass fail <"$OUT/lab-worker-$worker.count" || { pass=0 fail=1; }
    PASSED=$((PASSED + pass)) FAILED=$((FAILED + fail))
  done
}

# What is in the full run only. The first three need the tree of clients, half a gigabyte: daemon's unit tests run the same
# programs. TestLabIommufd and its like need kernel modules that are built for them. What the others show, one of the short run
# shows too: TestLabNetwork moves files over four queues of either back end, with four vCPUs; TestLabPassthrough boots the newer
# kernel; TestLabVirshCommands and TestLabVctlCommands use consoles and go through all states; TestLabGuestEvents ends in a panic;
# TestRealEngineCyclesLeaveNothing starts and destroys 200 times.
# TestLabDisks has the cache modes of blk's, and virtd runs the engine that virtd-vmm's tests run alone.
LAB_FULL_ONLY='^TestLab(VirtManager|LibvirtDBus|Exporter|Iommufd|IommufdDirtyLog|Boot|ConsoleAndLifecycle|PausedTimeStandsStill|GuestRunsCommand|StartDestroyLeavesNothing'
LAB_FULL_ONLY+='|DriverOptions|Transfer|TransferQueues|TransferVhost|TransferVhostQueues)$'

# lab_jobs: a line for each, FOLDER [REGEXP]. The end-to-end tests take as long as all others together and so are in parts;
# the others share a boot.
lab_jobs() {
  local part
  for part in 0 1 2 3; do
    echo "lab/e2e ^($(grep -ohE '^func TestLab[A-Za-z0-9_]+' lab/e2e/*_test.go | sed 's/^func //' | grep -vE "$LAB_FULL_ONLY" |
      awk -v part=$part 'NR % 4 == part' | paste -sd'|'))\$"
  done
  lab_packages | grep -vE '^(cmd/virtd-vmm|hypervisor/virtio/blk|lab/e2e)$' | paste -sd,
  echo kvm
  echo demo-unprivileged
}

# lab_worker N: take the first line of the list until there is none
lab_worker() {
  local job folder regexp
  PASSED=0 FAILED=0
  while job=$(flock "$OUT/lab-jobs.lock" sed -i -e '1{w /dev/stdout' -e 'd}' "$OUT/lab-jobs") && [ -n "$job" ]; do
    read -r folder regexp <<<"$job"
    case $folder in
    kvm) kvm -short ;;
    demo-unprivileged) check demo-unprivileged demo/unprivileged.sh ;;
    lab/e2e) LAB_PART=$1 lab_package "$folder" -run "$regexp" -short ;;
    *) lab_package "$folder" -skip "$LAB_FULL_ONLY" -short ;;
    esac
  done
  echo "$PASSED $FAILED" >"$OUT/lab-worker-$1.count"
}

demo() { check demo demo/demo.sh; }
