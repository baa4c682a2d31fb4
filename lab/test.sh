#!/bin/bash
# test.sh - run the tests that need the lab: those named TestLab... in packages that use lab/labtest. With -run and -skip
# it runs others: those that need /dev/kvm, on a machine without one.
#
#   lab/test.sh PACKAGE[,PACKAGE...]|all [-run REGEXP] [-v] [-short] [-count N] [-skip REGEXP]
#
# Builds static test binaries and the programs, boots the lab once and runs them there. It fails when a test fails or
# skips, when nothing ran, and when the lab does not come back. Settings of lab.sh (LAB_HUGE, LAB_KERNEL,
# LAB_TIMEOUT ...) apply. Runs of the same package at once need a LAB_PART each, a word that tells their folders apart. The
# last line says "lab NAME: N passed, N failed".
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

[ $# -gt 0 ] || { sed -n '2,11p' "$0"; exit 2; }
name=$1
shift
run='^TestLab' verbose='' flags=()
while [ $# -gt 0 ]; do
  case $1 in
  -v) verbose=1; shift ;;
  -short) flags+=(-test.short); shift ;;
  -run) run=$2; shift 2 ;;
  -count | -parallel | -skip) flags+=("-test.${1#-}=$2"); shift 2 ;;
  *) echo "test.sh: unknown argument $1" >&2; exit 2 ;;
  esac
done

# packages with lab tests, as folders
with_lab_tests() { grep -rl --include='*_test.go' 'func TestLab' . | xargs -rn1 dirname | sort -u; }
if [ "$name" = all ]; then
  packages=$(with_lab_tests)
else
  packages=$(tr , '\n' <<<"$name" | sed 's|^\./||; s|^|./|; s|/$||')
fi

work=out/lab/$(tr -c 'a-zA-Z0-9\n' _ <<<"${name#./}")${LAB_PART:+_$LAB_PART}
mkdir -p out/lab
exec 6>"$work.lock" # the same tests twice at once would share the folder
flock 6
rm -rf "$work"
mkdir -p "$work/bin"
export CGO_ENABLED=0

# build NAME FILE test|build PACKAGE FLAG...: builds FILE with go. What other labs need too is linked once: go leaves a file
# alone that is up to date, so each is built where it stays.
build() {
  local kept=out/lab/built/$1 file=$2
  shift 2
  mkdir -p out/lab/built
  (
    flock 7
    go "$1" -o "$kept" "${@:3}" "$2"
    cp "$kept" "$file"
  ) 7>"$kept.lock"
}

n=0
for p in $packages; do
  grep -qsE 'func Test' "$p"/*_test.go || { echo "test.sh: $p has no tests" >&2; exit 2; }
  n=$((n + 1))
  mkdir -p "$work/$n"
  echo "$p" >"$work/$n/name"
  build "$(tr / _ <<<"${p#./}").test" "$work/$n/test" test "$p" -c -ldflags='-s -w'
  [ ! -d "$p/testdata" ] || cp -rL "$p/testdata" "$work/$n/" # links lead to what packages share
  # the programs that its tests ask labtest.Binary for
  for c in virtd vctl virtd-vmm virtd-usernet; do
    [ -e "$work/bin/$c" ] || ! grep -qE "Binary\(.*\"$c\"|VIRTD_LAB_BIN.*\"$c\"" "$p"/*_test.go ||
      build "$c" "$work/bin/$c" build "./cmd/$c" -trimpath -ldflags='-s -w'
  done
done

# the peer's daemon with nothing but its driver of devices, for tests that ask labtest.Libvirtd for it
peer() {
  local tree libs f
  tree=$(lab/lab.sh libvirtd)
  libs=$tree/usr/lib/x86_64-linux-gnu
  mkdir -p "$work"/libvirtd/{lib64,etc,run,var,dev,proc,sys,usr/share}
  cp -L "$tree/lib64/ld-linux-x86-64.so.2" "$work/libvirtd/lib64/"
  for f in "$tree/usr/sbin/libvirtd" "$libs/libvirt/connection-driver/libvirt_driver_nodedev.so"; do
    "$tree/lib64/ld-linux-x86-64.so.2" --library-path "$libs" --list "$f" | grep -o "$tree[^ ]*" || true
    echo "$f"
  done | sort -u | while read -r f; do
    mkdir -p "$work/libvirtd/$(dirname "${f#"$tree"/}")"
    cp -L "$f" "$work/libvirtd/${f#"$tree"/}"
  done
}
for d in "$work"/[0-9]*; do
  grep -qs 'labtest\.Libvirtd(' "$(cat "$d/name")"/*_test.go && [ ! -d "$work/libvirtd" ] && peer
done

: "${LAB_TIMEOUT:=300}"
export LAB_TIMEOUT
limit=$((LAB_TIMEOUT - 25))
{
  # programs start much faster from memory than from a shared folder
  echo 'cp -r bin /tmp/lab-bin; export VIRTD_LAB_BIN=/tmp/lab-bin; export GOMAXPROCS=${GOMAXPROCS:-4}'
  echo 'export VIRTD_LAB_LIBVIRTD=$PWD/libvirtd'
  echo 'for d in [0-9]*; do'
  echo '  cp -r "$d" "/tmp/lab-$d"; cd "/tmp/lab-$d"; echo "=== PACKAGE $(cat name)"'
  printf '  "$PWD/test" -test.v -test.timeout=%ss -test.run %q' "$limit" "$run"
  [ ${#flags[@]} = 0 ] || printf ' %q' "${flags[@]}"
  echo '; echo "=== STATUS $?"; cd /share'
  echo 'done'
} >"$work/run.sh"

rc=0
lab/lab.sh run -w "$work" bash ./run.sh >"$work/output" 2>"$work/errors" || rc=$?

count() { grep -cE "$1" "$work/output" || true; }
passed=$(count '^ *--- PASS:')
failed=$(count '^ *--- FAIL:')
skipped=$(count '^ *--- SKIP:')
statuses=$(count '^=== STATUS 0$')
problem=''
[ "$skipped" = 0 ] || problem+=" $skipped tests skipped, which the lab does not allow;"
[ "$statuses" = "$n" ] || problem+=" $((n - statuses)) of $n test binaries did not end well;"
[ "$rc" = 0 ] || problem+=" the lab ended with status $rc;"
[ $((passed + failed)) -gt 0 ] || problem+=" no test ran;"

if [ -n "$verbose$problem" ] || [ "$failed" -gt 0 ]; then
  cat "$work/output"
  cat "$work/errors" >&2
else
  grep -E '^(=== PACKAGE|--- )' "$work/output" | sed 's/^=== PACKAGE/package/' || true
fi
if [ -n "$problem" ]; then
  echo "lab $name:$problem"
  [ "$failed" -gt 0 ] || failed=1
fi
echo "lab $name: $passed passed, $failed failed"
[ "$failed" = 0 ]
