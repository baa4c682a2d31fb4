# Debian packages without installing them: an apt with lists and a status of its own.
#
# Everything comes from one release whatever this machine runs (but the emulator of lib/emulator.sh), so the lab is the same
# everywhere, and dependencies are resolved against an empty system, so nothing of this machine leaks in.

RELEASE=bookworm
DEBS=$LAB/debs
APT=()
APT_TYPES=deb # "deb deb-src": sources too

apt_setup() {
  [ ${#APT[@]} -gt 0 ] && return
  local a=$LAB/apt-$RELEASE
  [ "$APT_TYPES" = deb ] || a+=-src
  APT=(-q -o "Dir::Etc::sourcelist=$a/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$a/lists" -o "Dir::State::status=$a/status" -o "Dir::Cache=$a/cache"
    -o "APT::Sandbox::User=$(id -un)" -o APT::Architecture=amd64)
  mkdir -p "$a/lists/partial" "$a/cache/archives/partial" "$DEBS"
  touch "$a/status"
  [ -e "$a/.ok" ] && return
  apt_sources >"$a/sources.list"
  log "fetching Debian package lists"
  apt-get "${APT[@]}" update >&2 || die "apt-get update failed; is a Debian mirror reachable?"
  touch "$a/.ok"
}

# apt_sources prints a sources.list for RELEASE on the mirror this machine already uses.
apt_sources() {
  local key=/usr/share/keyrings/debian-archive-keyring.gpg uri t
  uri=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -v '^#' |
    grep -oE 'https?://[^ ]+/debian/?( |$)' | head -1 | tr -d ' ' || true)
  [ -n "$uri" ] || die "no Debian mirror is configured for apt on this machine"
  uri=${uri%/}
  for t in $APT_TYPES; do
    echo "$t [signed-by=$key] $uri $RELEASE main"
    echo "$t [signed-by=$key] $uri $RELEASE-updates main"
    echo "$t [signed-by=$key] $uri $RELEASE-backports main"
    echo "$t [signed-by=$key] $uri-security $RELEASE-security main"
  done
}

# resolve SUITE PACKAGE... prints NAME=VERSION of the packages and of everything they depend on.
resolve() {
  local suite=$1 out
  shift
  out=$(apt-get "${APT[@]}" install -s --no-install-recommends -t "$suite" "$@") || die "cannot resolve: $*"
  awk '/^Inst/ { sub(/^\(/, "", $3); print $2 "=" $3 }' <<<"$out"
}

# fetch NAME=VERSION... downloads what the cache lacks and prints the paths of the .deb files.
fetch() {
  local p want=() missing=()
  for p in "$@"; do
    local file=${p%%=*}_${p#*=}
    want+=("$DEBS/${file//:/%3a}")
    compgen -G "${want[-1]}_*.deb" >/dev/null || missing+=("$p")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    log "downloading ${#missing[@]} packages"
    (cd "$DEBS" && apt-get "${APT[@]}" download "${missing[@]}" >&2) || die "download failed: ${missing[*]}"
  fi
  for p in "${want[@]}"; do compgen -G "${p}_*.deb" | head -1; done
}

# unpack DIR DEB... puts the files of packages below DIR, through the links of a merged /usr.
unpack() {
  local d=$1 deb
  shift
  for deb in "$@"; do
    dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink --no-same-owner -C "$d" || die "cannot unpack $deb"
  done
}

# stamp FILE TEXT: succeeds when FILE already says TEXT, that is, when what it stands for is up to date. With PROBE set
# it ends the shell when it is not.
stamp() {
  [ "$(cat "$1" 2>/dev/null)" != "$2" ] || return 0
  [ -z "${PROBE:-}" ] || exit 1
  return 1
}

# sum FILE...: one checksum over the scripts that a built thing depends on.
sum() { cat "$@" | sha256sum | cut -c1-16; }
