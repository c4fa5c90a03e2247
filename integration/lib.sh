# shellcheck shell=bash disable=SC2034,SC2119,SC2120
# What every scenario shares: worlds, peers, assertions, clean-up. Sourced first, by every NNN-name.sh.
#
# A *world* is a set of namespaces that belongs to one scenario: its own network ("host" in the pictures), mounts, /run,
# and processes; as an ordinary user also its own user namespace, in which the scenario is root. Whatever is started
# in it dies with it, and nothing in it can reach the machine's network. Pictures name these parts:
#
#   host     the world's first network namespace; wg4netns and its UDP socket live here
#   peer     the network namespace of the far end, joined to host by the veth pair h0 (10.9.0.1, fd09::1) and
#            p0 (10.9.0.2, fd09::2); inside the tunnel it is 10.6.0.2 and fd06::2
#   target   `unshare -Urn`, the namespace wg4netns gives an interface to; inside the tunnel 10.6.0.1 and fd06::1
#
# A scenario ends with 0 (passed), 77 (skipped: it said why) or anything else (failed).
set -Eeuo pipefail
trap 'fail "this command failed: $BASH_COMMAND"' ERR
export LC_ALL=C
export PATH=$PATH:/usr/sbin:/sbin

INTEGRATION=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SCENARIO=$(basename "$0" .sh)
CACHE=${WG4NETNS_CACHE:-$INTEGRATION/.cache}
export ROOTLESS_ENV_CACHE=${ROOTLESS_ENV_CACHE:-$CACHE/rootless-env}

# --- saying what happens -------------------------------------------------------------------------------------------

step() { printf -- '- %s\n' "$*" >&2; }
note() { printf '  %s\n' "$*" >&2; }

# Prints what was logged by everything the scenario started, and ends the scenario.
fail() {
  trap - ERR
  printf 'FAILED: %s\n' "$*" >&2
  local frame=0
  while caller $frame >&2; do frame=$((frame + 1)); done
  show_logs
  exit 1
}

show_logs() {
  local log
  for log in "${W:-/nonexistent}"/*.log; do
    [ -s "$log" ] || continue
    printf '  --- %s (last 25 lines)\n' "$(basename "$log")" >&2
    tail -n 25 "$log" | sed 's/^/  | /' >&2
  done
}

# skip FEATURE REASON: ends the scenario as skipped, or as failed where FEATURE is required.
skip() {
  case ",${WG4NETNS_REQUIRE-}," in
    *",$1,"*) fail "required but missing: $1: $2" ;;
  esac
  printf 'SKIPPED: %s: %s\n' "$1" "$2" >&2
  exit 77
}

# need FEATURE…: skips unless every one of them is there.
need() {
  local feature
  for feature; do
    case $feature in
      netns) unshare -Urn true 2>/dev/null || skip netns "user and network namespaces cannot be made here" ;;
      tun) (exec 3<>/dev/net/tun) 2>/dev/null || skip tun "/dev/net/tun cannot be opened (chmod 666 /dev/net/tun as root)" ;;
      engines)
        { [ "$(id -u)" = 0 ] && "$INTEGRATION/tools/rootless-env" ready; } ||
          skip engines "podman and a Debian 13 root are fetched by integration/run as root" ;;
      buildah)
        { [ "$(id -u)" = 0 ] && "$INTEGRATION/tools/rootless-env" ready buildah; } ||
          skip buildah "it is added to the Debian 13 root by integration/run as root" ;;
      docker)
        { [ "$(id -u)" = 0 ] && "$INTEGRATION/tools/rootless-env" ready dockerd docker; } ||
          skip docker "docker.io and docker-cli are added to the Debian 13 root by integration/run as root" ;;
      containerd)
        { [ "$(id -u)" = 0 ] && "$INTEGRATION/tools/rootless-env" ready containerd ctr runc rootlessctl /usr/lib/cni/bridge; } ||
          skip containerd "containerd and the CNI plugins are added to the Debian 13 root by integration/run as root" ;;
      systemd)
        { [ "$(id -u)" = 0 ] && "$INTEGRATION/tools/rootless-env" ready /usr/lib/systemd/systemd dbus-daemon; } ||
          skip systemd "systemd and a session bus are added to the Debian 13 root by integration/run as root" ;;
      vm) "$INTEGRATION/tools/refvm" ready "$CACHE/refvm" || skip vm "not built: integration/tools/refvm build $CACHE/refvm" ;;
      root) [ "$(id -u)" = 0 ] || skip root "needs root" ;;
      boringtun-cli | gotatun)
        [ -x "$CACHE/bin/$feature" ] || skip "$feature" "not built: integration/tools/bench-peers $CACHE $feature" ;;
      *) command -v "$feature" >/dev/null || skip "$feature" "not installed" ;;
    esac
  done
}

# --- waiting and asserting -----------------------------------------------------------------------------------------

now_ms() { local t=${EPOCHREALTIME/[.,]/}; printf '%s' "${t%???}"; }

# wait_for 'what' SECONDS CMD…: until CMD succeeds; SECONDS may have decimals. Sets WAITED_MS.
wait_for() {
  local what=$1 begin deadline
  begin=$(now_ms); deadline=$((begin + $(awk -v s="$2" 'BEGIN { printf "%d", s * 1000 }'))); shift 2
  until "$@" >"$W/wait_for.out" 2>&1; do
    if [ "$(now_ms)" -ge "$deadline" ]; then
      sed 's/^/  last said: /' "$W/wait_for.out" >&2
      fail "waited for: $what ($*)"
    fi
    sleep 0.01
  done
  WAITED_MS=$(($(now_ms) - begin))
}

# stays 'what' SECONDS CMD…: CMD keeps succeeding for that long.
stays() {
  local what=$1 deadline
  deadline=$(($(now_ms) + $2 * 1000)); shift 2
  while [ "$(now_ms)" -lt "$deadline" ]; do
    "$@" >/dev/null 2>&1 || fail "did not stay: $what ($*)"
    sleep 0.05
  done
}

not() { ! "$@"; }

# capture CMD…: runs it; leaves STATUS, OUT, ERR and TOOK_MS.
capture() {
  local begin; begin=$(now_ms); STATUS=0
  "$@" >"$W/capture.out" 2>"$W/capture.err" || STATUS=$?
  TOOK_MS=$(($(now_ms) - begin))
  OUT=$(cat "$W/capture.out"); ERR=$(cat "$W/capture.err")
}

# capture_within MS 'what' CMD…: the same for the quickest of at most ten runs, which takes no longer than MS; what is slow
# is slow each time, while a busy machine stretches some.
capture_within() {
  local limit=$1 what=$2 quickest='' _; shift 2
  for _ in {1..10}; do
    capture "$@"
    [ -n "$quickest" ] && [ "$quickest" -le "$TOOK_MS" ] || quickest=$TOOK_MS
    [ "$quickest" -gt "$limit" ] || return 0
  done
  assert_at_most "$what (ms), the quickest of ten" "$limit" "$quickest"
}

said() { printf '  status %s\n  stdout: %s\n  stderr: %s\n' "${STATUS-}" "${OUT-}" "${ERR-}" >&2; }

assert_eq() { # WHAT WANTED GOT
  [ "$2" = "$3" ] && return
  printf '  wanted: %s\n  got:    %s\n' "$2" "$3" >&2
  fail "$1"
}

assert_has() { # WHAT PART WHOLE
  case $3 in *"$2"*) return ;; esac
  printf '  wanted in it: %s\n  got: %s\n' "$2" "$3" >&2
  fail "$1"
}

assert_lacks() { # WHAT PART WHOLE
  case $3 in *"$2"*) printf '  not wanted: %s\n  got: %s\n' "$2" "$3" >&2; fail "$1" ;; esac
}

# assert_lacks_parts WHAT SECRET WHOLE: no eight characters in a row of SECRET are in WHOLE.
assert_lacks_parts() {
  local start
  for ((start = 0; start + 8 <= ${#2}; start++)); do assert_lacks "$1" "${2:start:8}" "$3"; done
}

assert_matches() { # WHAT EXTENDED-REGEX WHOLE
  [[ $3 =~ $2 ]] && return
  printf '  wanted match: %s\n  got: %s\n' "$2" "$3" >&2
  fail "$1"
}

assert_status() { # WANTED, after capture
  [ "$STATUS" = "$1" ] && return
  said
  fail "exit status: wanted $1, got $STATUS"
}

# no_page URL CMD…, in an engine: wget, called by CMD in a container of the image `busybox`, gets no page and says why, or
# waits in vain. (`wget -T` of Debian's static busybox dies of a fault, whatever the page.)
no_page() {
  capture "${@:2}" sh -c "/bin/busybox timeout 3 wget -qO- $1; exit \$?"
  case $STATUS in
    1) assert_matches "why there is no page at $1" "wget: (can't connect to remote host|bad address).*" "$ERR" ;;
    143) ;;
    *) said; fail "wget neither failed nor was ended, or got a page: $1" ;;
  esac
  assert_eq "what came of $1" "" "$OUT"
  note "no page at $1: status $STATUS: $ERR"
}

assert_at_most() { # WHAT LIMIT GOT
  [ "$3" -le "$2" ] || fail "$1: at most $2, got $3"
  note "$1: $3 (at most $2)"
}

# refused CODE 'LINE' 'HINT' -- CMD…: stderr is exactly this, but for warnings (an empty HINT is no hint); nothing is on stdout, and
# nothing is left.
refused() {
  local wanted="wg4netns: $2" code=$1
  [ -z "$3" ] || wanted+=$'\n'"hint: $3"
  shift 4
  capture "$@"
  assert_eq "what is said" "$wanted" "$(grep -v '^wg4netns: warning: ' <<<"$ERR" || true)"
  assert_eq "stdout" "" "$OUT"
  assert_status "$code"
  assert_nothing_left
}

# join_hint: what the refusal of setns advises; a machine may itself be under a seccomp filter.
join_hint() {
  if grep -q '^Seccomp:.*2' /proc/self/status; then echo 'a seccomp filter is on here and may refuse `setns`; run wg4netns outside this container'
  else echo 'run wg4netns as the user that started the container, outside any other user namespace'; fi
}

# --- the scenario's processes and directory ------------------------------------------------------------------------

OWN_PIDS=()
STARTED=

# start NAME CMD…: in the background, output to NAME.log; leaves its pid in STARTED.
start() {
  local name=$1; shift
  "$@" <&0 >>"$W/$name.log" 2>&1 &
  STARTED=$!
  OWN_PIDS+=("$STARTED")
}

cleanup() {
  local status=$? pid
  trap - EXIT
  for pid in "${OWN_PIDS[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${OWN_PIDS[@]}"; do
    for _ in {1..100}; do kill -0 "$pid" 2>/dev/null || break; sleep 0.01; done
    kill -9 "$pid" 2>/dev/null || true
  done
  [ -z "${W-}" ] || rm -rf --one-file-system "$W" 2>/dev/null || true
  exit "$status"
}

alive() { kill -0 "$1" 2>/dev/null && [ "$(sed -n 's/^State:\t\(.\).*/\1/p' "/proc/$1/status" 2>/dev/null)" != Z ]; }
gone() { ! alive "$1"; }

# A directory for the scenario's files; the runtime directory, home and configuration of everything in it are inside.
make_workdir() {
  W=$(mktemp -d "/tmp/wg4netns-$SCENARIO.XXXXXX")
  mkdir -m 700 "$W"/{runtime,home,config,state,tmp}
  export W XDG_RUNTIME_DIR=$W/runtime HOME=$W/home XDG_CONFIG_HOME=$W/config XDG_STATE_HOME=$W/state TMPDIR=$W/tmp
  trap cleanup EXIT
  trap 'exit 143' TERM
  trap 'exit 130' INT
}

# The binary under test: $WG4NETNS, else the newest that cargo has built.
find_binary() {
  if [ -z "${WG4NETNS-}" ]; then
    # shellcheck disable=SC2012 # names without surprises, newest first
    WG4NETNS=$(ls -t "$INTEGRATION"/../target/{x86_64-unknown-linux-musl/dist,release,debug}/wg4netns 2>/dev/null | head -n 1 || true)
  fi
  [ -x "$WG4NETNS" ] || fail "no wg4netns binary: cargo build, or WG4NETNS=path"
  WG4NETNS=$(realpath "$WG4NETNS")
  export WG4NETNS
}

# --- worlds --------------------------------------------------------------------------------------------------------

# in_world "$@": the first call of a scenario that wants a world; the rest of the script runs inside.
in_world() {
  if [ -z "${WG4NETNS_WORLD-}" ]; then
    need netns
    local as_root=(-U -r)
    WG4NETNS_WORLD=user
    if [ "$(id -u)" = 0 ]; then as_root=(); WG4NETNS_WORLD=root; fi
    export WG4NETNS_WORLD
    exec unshare "${as_root[@]}" --net --mount --pid --fork --kill-child --mount-proc bash "$0" "$@"
  fi
  mount -t tmpfs -o mode=755 tmpfs /run
  mkdir -p /run/netns
  make_workdir
  find_binary
  ip link set lo up
  echo '0 2147483647' >/proc/sys/net/ipv4/ping_group_range 2>/dev/null || true
}

# no_world: for scenarios that run in the machine's own namespaces. They reach their peers over loopback only.
no_world() {
  make_workdir
  find_binary
}

# Where our sockets and locks are.
uapi_dir() {
  if [ "$(id -u)" = 0 ] && [ "${WG4NETNS_WORLD-root}" = root ]; then echo /var/run/wireguard; else echo "$XDG_RUNTIME_DIR/wireguard"; fi
}

on() { nsenter --net="/run/netns/$1" -- "${@:2}"; } # NAMESPACE CMD…

# veth_pair NS HOST-IF NS-IF NUMBER: a network namespace joined to host; 10.NUMBER.0.1 ↔ .2, fdNUMBER::1 ↔ ::2.
veth_pair() {
  ip netns add "$1"
  ip link add "$2" type veth peer name "$3" netns "$1"
  printf -v six 'fd%02d::' "$4"
  ip addr add "10.$4.0.1/24" dev "$2"; ip addr add "${six}1/64" dev "$2" nodad; ip link set "$2" up
  on "$1" ip link set lo up
  on "$1" ip addr add "10.$4.0.2/24" dev "$3"; on "$1" ip addr add "${six}2/64" dev "$3" nodad; on "$1" ip link set "$3" up
}

# peer_world: host and peer as in the picture above, and the keys `a` (ours) and `b` (the peer's).
peer_world() {
  veth_pair peer h0 p0 9
  make_key a; make_key b
}

make_key() { # NAME: NAME.key and NAME.pub
  (umask 077; wg genkey >"$W/$1.key"); wg pubkey <"$W/$1.key" >"$W/$1.pub"
}
key() { cat "$W/$1.key"; }
pub() { cat "$W/$1.pub"; }

# our_conf FILE [INTERFACE-LINE…] [-- PEER-LINE…]: our side of the picture; lines given later win, as the file says them.
our_conf() {
  local file=$1 line in=device_lines; shift
  local device_lines=("PrivateKey = $(key a)" "Address = 10.6.0.1/24, fd06::1/64")
  local peer_lines=("PublicKey = $(pub b)" "AllowedIPs = 10.6.0.0/24, fd06::/64" "Endpoint = 10.9.0.2:51820")
  for line; do
    if [ "$line" = -- ]; then in=peer_lines; continue; fi
    replace_line "$in" "$line"
  done
  { echo '[Interface]'; printf '%s\n' "${device_lines[@]}"; echo; echo '[Peer]'; printf '%s\n' "${peer_lines[@]}"; } >"$file"
  chmod 600 "$file"
}

# cut_key FILE: FILE, its PrivateKey cut off after 20 characters.
cut_key() { sed -E 's/^(PrivateKey = .{20}).*/\1/' "$1"; }

# replace_line ARRAY 'Key = value': sets the line with that key, or adds it; 'Key =' removes it.
replace_line() {
  local -n lines=$1
  local key=${2%%[ =]*} kept=() each
  for each in "${lines[@]}"; do [ "${each%%[ =]*}" = "$key" ] || kept+=("$each"); done
  case $2 in "$key =" | "$key=") ;; *) kept+=("$2") ;; esac
  lines=("${kept[@]}")
}

# --- container engines ---------------------------------------------------------------------------------------------

# in_engines "$@" [-- ENGINE…]: runs this scenario again as the user `rootless`, in the world's network, beside podman 4.3.1
# (ENGINE host) and then 5.4.2 (trixie; systemd: with a real systemd). There `$ENGINE` says which; W is that run's own, `$SHARED` is ours. A scenario begins
#   . lib.sh; inside() { … }; in_engine "$@"; in_world "$@"; need engines; …; in_engines
in_engines() {
  local engine
  [ $# -gt 0 ] || set -- host trixie
  chmod 711 "$W"
  for engine; do
    step "podman of $engine"
    mkdir "$W/$engine"; chmod 777 "$W/$engine"
    "$INTEGRATION/tools/rootless-env" image >"$W/image.tar"
    FRESH_HOME=yes BIND="$W $INTEGRATION $(dirname "$WG4NETNS") ${ENGINE_BIND-}" "$INTEGRATION/tools/rootless-env" "$engine" \
      env ENGINE="$engine" W="$W/$engine" SHARED="$W" WG4NETNS="$WG4NETNS" WG4NETNS_WORLD="$WG4NETNS_WORLD" \
      WG4NETNS_REQUIRE="${WG4NETNS_REQUIRE-}" bash "$0" || fail "podman of $engine"
  done
}

# A rootless daemon takes us in by its environment; PREFIX is what the names of its variables begin with, and `daemon NAME` of the
# scenario starts it, leaves DAEMON, and returns when it answers or has ended.

# printed_environment WHOSE PREFIX: from now on the line that `drop-ins install` prints for it.
printed_environment() {
  local line each
  step "the environment is the line that drop-ins install prints"
  "$WG4NETNS" drop-ins install --config work >"$W/install.out"
  line=$(sed -n "s/^$1 *//p" "$W/install.out")
  assert_eq "the line" "WG4NETNS_CONFIG=work $2_NET=slirp4netns $2_FLAGS=--slirp4netns-binary=$HOME/.local/share/wg4netns/libexec/slirp4netns" "$line"
  for each in $line; do export "${each?}"; done
}

# no_daemon_without_configuration PREFIX: with one chosen that is not there, it does not start, and says why in absent.log.
no_daemon_without_configuration() {
  local flags=$1_FLAGS was
  was=${!flags}
  step "a configuration that is not there: the daemon does not start"
  # rootlesskit shows what its helpers say only then.
  export WG4NETNS_CONFIG=absent "$flags=--debug $was"
  daemon absent
  export WG4NETNS_CONFIG=work "$flags=$was"
  gone "$DAEMON" || fail "it runs"
  assert_has "why" "wg4netns (as slirp4netns): no configuration \`absent\`" "$(cat "$W/absent.log")"
}

# daemon_world: a far end with a page beside the tunnel, something that swallows bytes (`sunk N`: so many), and a large page.
daemon_world() {
  peer_world
  start_wireguard_go_peer
  our_conf "$W/wg0.conf" "DNS = 10.6.0.2" -- "AllowedIPs = 0.0.0.0/0, ::/0"
  chmod 644 "$W/wg0.conf"
  far_services
  start plain on peer socat TCP-LISTEN:8080,bind=10.9.0.2,fork,reuseaddr "SYSTEM:$W/page"
  start sink on peer socat TCP-LISTEN:81,bind=10.6.0.2,fork,reuseaddr "SYSTEM:wc -c >$W/sunk"
  start source on peer socat TCP-LISTEN:82,bind=10.6.0.2,fork,reuseaddr "SYSTEM:head -c 8000000 /dev/zero"
}
sunk() { [ "$(cat "$SHARED/sunk")" = "$1" ]; }

# page_is TEXT URL: as seen from here.
page_is() { [ "$(curl -sS -m 2 "$2" 2>/dev/null)" = "$1" ]; }

# in_engine: the other half. Runs `inside` and ends, if that is where we are; image `busybox` is there then.
in_engine() {
  [ -n "${ENGINE-}" ] || return 0
  trap cleanup EXIT
  trap 'exit 143' TERM
  export TMPDIR=$W XDG_STATE_HOME=$HOME/.local/state
  mkdir -p ~/.config/wg4netns
  podman import - busybox <"$SHARED/image.tar" >"$W/import.log" 2>&1 || fail "podman import"
  note "$(podman --version)"
  inside
  podman rm --all --force --time 0 >"$W/rm.log" 2>&1 || true
  exit 0
}

# beside FOLDER: what has that folder of the repository; `run` puts it among the scenarios.
beside() { if [ -d "$INTEGRATION/$1" ]; then echo "$INTEGRATION"; else echo "$INTEGRATION/.."; fi; }
copy_helper_scripts() { cp -r "$(beside helper-scripts)/helper-scripts" "$W/"; }

# --- far ends ------------------------------------------------------------------------------------------------------

# far_end INTERFACE [NS]: addresses of the far end on its interface, which is up then.
far_end_addresses() {
  on "${2:-peer}" ip addr add 10.6.0.2/24 dev "$1"
  on "${2:-peer}" ip addr add fd06::2/64 dev "$1" nodad
  on "${2:-peer}" ip link set "$1" mtu 1420 up
}

# start_wireguard_go_peer [INTERFACE [NS]]: wireguard-go, listening on 51820, our side allowed. Leaves its pid in PEER_PID.
start_wireguard_go_peer() {
  local interface=${1:-wgp0} ns=${2:-peer}
  need wireguard-go wg
  start "$interface" nsenter --net="/run/netns/$ns" -- env WG_PROCESS_FOREGROUND=1 LOG_LEVEL=verbose wireguard-go "$interface"
  PEER_PID=$STARTED
  wait_for "wireguard-go's socket" 5 test -S "/run/wireguard/$interface.sock"
  wg set "$interface" private-key "$W/b.key" listen-port 51820 peer "$(pub a)" allowed-ips 10.6.0.1/32,fd06::1/128
  far_end_addresses "$interface" "$ns"
}

# start_boringtun_cli_peer [INTERFACE [NS]]: the same with boringtun's own program.
start_boringtun_cli_peer() {
  local interface=${1:-wgp0} ns=${2:-peer}
  need boringtun-cli wg
  start "$interface" nsenter --net="/run/netns/$ns" -- "$CACHE/bin/boringtun-cli" --foreground --disable-drop-privileges "$interface"
  PEER_PID=$STARTED
  wait_for "boringtun's socket" 5 test -S "/run/wireguard/$interface.sock"
  wg set "$interface" private-key "$W/b.key" listen-port 51820 peer "$(pub a)" allowed-ips 10.6.0.1/32,fd06::1/128
  far_end_addresses "$interface" "$ns"
}

# start_vm [QEMU-ARG…]: a virtual machine at 10.5.0.2 (fd05::2), whose kernel has WireGuard; the host side is tap0.
# Then `vm 'CMD'` runs a line of shell in it.
start_vm() {
  need vm
  ip tuntap add dev tap0 mode tap
  ip addr add 10.5.0.1/24 dev tap0; ip addr add fd05::1/64 dev tap0 nodad; ip link set tap0 up
  mkfifo "$W/vm.in"
  # Open for reading and writing, so that neither side waits for the other.
  exec {VM_IN}<>"$W/vm.in"
  start vm "$INTEGRATION/tools/refvm" run "$CACHE/refvm" tap0 "$@" <"$W/vm.in"
  wait_for "the virtual machine" 60 grep -q READY "$W/vm.log"
}

# start_kernel_peer: the kernel's WireGuard in it as the far end.
start_kernel_peer() {
  start_vm
  vm "echo $(key b) > /b.key; echo $(pub a) > /a.pub"
  vm "ip link add wg0 type wireguard && wg set wg0 private-key /b.key listen-port 51820 peer \$(cat /a.pub) allowed-ips 10.6.0.1/32,fd06::1/128"
  vm 'ip addr add 10.6.0.2/24 dev wg0; ip addr add fd06::2/64 dev wg0 nodad; ip link set wg0 up; iperf3 -s -D'
}

# vm 'CMD': runs it in the virtual machine, prints what it said, returns its status. vm_begin and vm_end: its two halves.
vm() { vm_begin "$1"; vm_end; }
vm_begin() {
  VM_SEEN=$(grep -c '^done ' "$W/vm.log" || true) VM_ASKED=$1
  printf '%s\n' "$1" >&"$VM_IN"
}
vm_end() {
  local status
  wait_for "the virtual machine's answer to: $VM_ASKED" 60 vm_answered
  tr -d '\r' <"$W/vm.log" | awk -v n="$VM_SEEN" 'd == n && !/^(done |READY)/; /^done / { d++ }'
  status=$(tr -d '\r' <"$W/vm.log" | grep '^done ' | sed -n "$((VM_SEEN + 1))s/done //p")
  return "$status"
}
vm_answered() { [ "$(grep -c '^done ' "$W/vm.log" || true)" -gt "$VM_SEEN" ]; }

# far_services: at the far end's address inside the tunnel, a page on port 80 that says who asks, and a name server that
# knows far.test.
far_services() {
  need socat dnsmasq
  printf '%s\n' '#!/bin/sh' 'while read -r line && [ ${#line} -gt 1 ]; do :; done' \
    'printf "HTTP/1.0 200 OK\r\n\r\nyou are %s" "$SOCAT_PEERADDR"' >"$W/page"; chmod 755 "$W/page"
  start page on peer socat TCP-LISTEN:80,fork,reuseaddr "SYSTEM:$W/page"
  start dns on peer dnsmasq --no-daemon --conf-file=/dev/null --no-hosts --no-resolv --user=root --group=root --pid-file= \
    --address=/far.test/10.6.0.2 --listen-address=10.6.0.2 --bind-interfaces
}

# --- targets and our side ------------------------------------------------------------------------------------------

# start_target: an unprivileged user and network namespace with one sleeping process; leaves TARGET.
start_target() {
  unshare -Urn sleep 100000 </dev/null >/dev/null 2>&1 &
  TARGET=$!
  OWN_PIDS+=("$TARGET")
  wait_for "the target's namespaces" 5 own_netns "$TARGET"
}
own_netns() {
  [ "$(cat "/proc/$1/comm")" = sleep ] && [ "$(readlink "/proc/$1/ns/net")" != "$(readlink /proc/self/ns/net)" ]
}

in_target() { nsenter -t "$TARGET" -U -n --preserve-credentials -- "$@"; }

# ours NAME ARG…: wg4netns in the background; returns when it says it is ready. Leaves OURS (its pid).
ours() {
  ours_unready "$@"
  wait_for "wg4netns $1 to be ready" 10 ready_or_dead "$1" "$OURS"
  [ -s "$W/$1.ready" ] || fail "wg4netns $1 ended instead of becoming ready"
}
ours_unready() {
  local name=$1; shift
  rm -f "$W/$name.ready"
  # A shell that runs a script starts background processes with SIGINT and SIGQUIT ignored.
  start "$name" env --default-signal=INT,QUIT "$WG4NETNS" "$@" --ready-fd 9 9>"$W/$name.ready"
  OURS=$STARTED
}
ready_or_dead() { [ -s "$W/$1.ready" ] || gone "$2"; }

# The usual: attach the target by pid with wg0.conf.
attach() { ours wg0 --netns-pid "$TARGET" --config "$W/wg0.conf" "$@"; }

# --- watching for what must not happen -----------------------------------------------------------------------------

# watch_namespace PID: the link `watch0` of host disappears with PID's network namespace (a veth dies with either end).
watch_namespace() {
  ip link add watch0 type veth peer name watch1 netns "$1"
}
namespace_gone() { ! ip link show watch0 >/dev/null 2>&1; }

# watch_container NAME, in an engine: as watch_namespace; the link is in a namespace of podman's user namespace.
watch_container() {
  local pid; pid=$(podman inspect -f '{{.State.Pid}}' "$1")
  if [ ! -e "$W/watch.ns" ]; then : >"$W/watch.ns"; podman unshare unshare --net="$W/watch.ns" true; fi
  in_watch ip link add "watch$pid" type veth peer name watch1 netns "$pid"
  WATCHED=watch$pid
}
in_watch() { podman unshare nsenter --net="$W/watch.ns" "$@"; }
container_namespace_gone() { ! in_watch ip link show "$WATCHED" >/dev/null 2>&1; }

# datagram_comes_back PORT: what is sent to that port of this machine is echoed.
datagram_comes_back() {
  local line
  exec 7<>"/dev/udp/127.0.0.1/$1"
  echo hallo >&7
  # Not read, which takes a byte at a time and loses the rest of the datagram.
  line=$(timeout 1 dd bs=100 count=1 <&7 2>/dev/null) && [ "$line" = hallo ]
}

# canaries: counts every packet of host that is not between our UDP socket and the far end, and listens on every
# address and at every resolver's socket.
canaries() {
  local socket
  nft -f - <<'N'
table inet canary {
  counter sent {}
  counter received {}
  chain out {
    type filter hook output priority 0
    oifname "h0" ip daddr 10.9.0.2 udp dport 51820 accept
    oifname "h0" ip6 daddr fd09::2 udp dport 51820 accept
    # The far end may answer a helper that has ended meanwhile, and the host's kernel says that nobody is there.
    oifname "h0" ip daddr 10.9.0.2 icmp type destination-unreachable counter accept
    oifname "h0" ip6 daddr fd09::2 icmpv6 type destination-unreachable counter accept
    oifname "h0" icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld2-listener-report } accept
    counter name sent
  }
  chain in {
    type filter hook input priority 0
    iifname "h0" ip saddr 10.9.0.2 udp sport 51820 accept
    iifname "h0" ip6 saddr fd09::2 udp sport 51820 accept
    iifname "h0" icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld2-listener-report } accept
    counter name received
  }
}
N
  : >"$W/heard"
  for port in 53 80; do
    start canary socat -u "UDP6-RECVFROM:$port,ipv6only=0,fork" "OPEN:$W/heard,append"
    start canary socat -u "TCP6-LISTEN:$port,ipv6only=0,fork" "SYSTEM:echo tcp $port >>$W/heard"
  done
  for socket in nscd/socket systemd/resolve/io.systemd.Resolve dbus/system_bus_socket avahi-daemon/socket; do
    mkdir -p "/run/$(dirname "$socket")"
    start canary socat -u "UNIX-LISTEN:/run/$socket,fork,mode=777" "SYSTEM:echo $socket >>$W/heard"
    wait_for "canary $socket" 5 test -S "/run/$socket"
  done
  wait_for "canary ports" 5 canary_ports
}
# engine_canaries: counts what leaves host but is not between our UDP socket and the far end, and every question to a name
# server. What engines and published ports say to each other over lo does not count; neither do the connections to port 8080
# of the far end that scenarios make without a tunnel on purpose, to show that packets move.
engine_canaries() {
  nft -f - <<'N'
table inet canary {
  counter sent {}
  chain out {
    type filter hook output priority 0
    meta l4proto { tcp, udp } th dport 53 counter name sent
    oifname "lo" accept
    oifname "h0" ip daddr 10.9.0.2 udp dport { 9, 51820 } accept
    oifname "h0" ip daddr 10.9.0.2 tcp dport 8080 accept
    # The far end goes on to send to the port of a helper that was killed, and the host's kernel answers.
    oifname "h0" ip daddr 10.9.0.2 icmp type destination-unreachable accept
    oifname "h0" ip6 daddr fd09::2 icmpv6 type destination-unreachable accept
    oifname "h0" ip6 daddr fd09::2 udp dport 51820 accept
    oifname "h0" icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld2-listener-report } accept
    counter name sent
  }
}
N
}
# assert_engine_canaries_silent: they have counted nothing, and would have: a question to a name server, and a packet that is
# not the tunnel's where there is a far end, are counted at once.
assert_engine_canaries_silent() {
  assert_eq "packets of host that are not the tunnel's, questions to its name servers" 0 "$(canary_count sent)"
  echo control >/dev/udp/127.0.0.1/53
  assert_eq "the control, a question" 1 "$(canary_count sent)"
  ip link show h0 >/dev/null 2>&1 || return 0
  echo control >/dev/udp/10.9.0.2/9999
  assert_eq "the control, a packet" 2 "$(canary_count sent)"
}
canary_ports() { [ "$(ss -Hltun '( sport = 53 or sport = 80 )' | wc -l)" -ge 4 ]; }

canary_count() { nft -j list counter inet canary "$1" | sed 's/.*"packets": *\([0-9]*\).*/\1/'; }

assert_canaries_silent() {
  assert_eq "packets sent by host" 0 "$(canary_count sent)"
  assert_eq "packets received by host" 0 "$(canary_count received)"
  assert_eq "heard by the listeners" "" "$(cat "$W/heard")"
}

# Every process that runs our binary, in this world or (without one) of this user; our helpers included.
our_processes() {
  local exe
  for exe in /proc/[0-9]*/exe; do
    if is_ours "${exe%/exe}"; then printf '%s ' "${exe//[!0-9]/}"; fi
  done
}
# is_ours /proc/PID: what our helpers run is hidden from an ordinary user outside of their user namespace, for they cannot be
# dumped. What they were called is not, nor whose they are; without a world, another one's are in process ids of its own.
is_ours() {
  local word runs _ user
  [ ! "$1/exe" -ef "$WG4NETNS" ] || return 0
  IFS= read -r -d '' word 2>/dev/null <"$1/cmdline" || return 1
  case $word in wg4netns | /proc/self/exe) ;; /*) is_our_file "$word" || return 1 ;; *) return 1 ;; esac
  if runs=$(readlink "$1/exe" 2>/dev/null); then is_our_file "$runs"; return; fi
  read -r _ user _ <<<"$(grep ^Uid: "$1/status" 2>/dev/null)"
  [ "$user" = "$UID" ] || return 1
  [ -n "${WG4NETNS_WORLD-}" ] || [ "$(grep ^NSpid: "$1/status" 2>/dev/null | wc -w)" = 2 ]
}
# Our binary, a link to it, or what drop-ins install has made of it.
is_our_file() {
  case $1 in "$WG4NETNS" | */wg4netns/libexec/pasta | */wg4netns/libexec/slirp4netns) return 0 ;; esac
  [ "$1" -ef "$WG4NETNS" ]
}
# assert_seen PID: our_processes sees it; what it never saw it would not miss, and "none is left" would be true of anything.
assert_seen() { assert_has "our processes" " $1 " " $(our_processes)"; }
no_processes() { [ -z "$(our_processes)" ]; }
no_files() { [ -z "$(find "$(uapi_dir)" "$XDG_RUNTIME_DIR" "$TMPDIR" -mindepth 1 -not -type d -not -name 'wgp*' 2>/dev/null)" ]; }

# Nothing of ours is left: no process, no socket or lock or pid file, no UDP port.
assert_nothing_left() {
  wait_for "no process of ours to be left" "${1:-1}" no_processes
  no_files || { find "$(uapi_dir)" "$XDG_RUNTIME_DIR" "$TMPDIR" -mindepth 1 >&2 || true; fail "files are left"; }
  assert_eq "UDP sockets left on host" "" "$(ss -Hlun)"
}

# --- what our processes have given up ------------------------------------------------------------------------------

# What brings a command into the user namespace in which our processes were started, where that is not the scenario's own: from
# outside of it, whose owner the user is, the user has every capability over them.
BESIDE=()

# assert_confined NAME…: seen from outside, each thread of each process of ours gains no privileges, has no capabilities (but
# net_admin with KEPT=net_admin), has two filters of system calls more than we have, and nobody of the same user may look into it,
# nor root of the target. NAMEs must be among them: a thread's own, or what a helper was started as.
assert_confined() {
  # Whoever lacks a capability that a process has may not look into it anyhow.
  local pid task name seen=' ' plain=(setpriv "--bounding-set=-all${KEPT:+,+$KEPT}" --inh-caps=-all)
  # Who has no capabilities cannot give up the right to them.
  [ ${#BESIDE[@]} -gt 0 ] || may_set_capabilities || plain=()
  # shellcheck disable=SC2016 # for that shell
  "${BESIDE[@]}" "${plain[@]}" sh -c 'sleep 10 & cat "/proc/$!/environ" >/dev/null; status=$?; kill $!; exit $status' ||
    fail "nobody may look into anything here"
  for pid in $(our_processes); do
    for task in "/proc/$pid/task/"*; do
      name=$(tr '\0' '\n' <"/proc/$pid/cmdline" | sed -n '2s/^__//p')
      [ -n "$name" ] || name=$(cat "$task/comm" 2>/dev/null) || continue
      # Each thread installs its own.
      wait_for "the filters of $name" 5 is_filtered "$task"
      assert_eq "what $name of process $pid has" "" "$(privileges "$task")"
      seen+="$name "
    done
    not may_look "$pid" "${BESIDE[@]}" "${plain[@]}" || fail "its user may look into $name"
    assert_has "why not" "Permission denied" "$(cat "$W/look")"
    if [ -n "${TARGET-}" ] && alive "$TARGET"; then
      may_look "$TARGET" in_target || fail "root of the target may look into nothing"
      not may_look "$pid" in_target || fail "root of the target may look into $name"
    fi
  done
  for name; do assert_has "who is confined" " $name " "$seen"; done
  note "confined:$seen"
}
# may_look PID CMD…: what it left in $W/look says why not.
may_look() { "${@:2}" cat "/proc/$1/environ" >/dev/null 2>"$W/look"; }
is_filtered() {
  local ours theirs
  ours=$(sed -n 's/^Seccomp_filters:\t//p' /proc/self/status)
  theirs=$(sed -n 's/^Seccomp_filters:\t//p' "$1/status" 2>/dev/null)
  # It may have ended.
  [ -z "$theirs" ] || { grep -q '^Seccomp:.2$' "$1/status" && [ "$theirs" -ge $((ours + 2)) ]; }
}
may_set_capabilities() { (((0x$(sed -n 's/^CapEff:\t//p' /proc/self/status) >> 8) & 1)); }
# privileges /proc/PID/task/TID: lines of its status that are not as they should be. The bounding set can be given up by those
# alone who had the right to.
privileges() {
  local sets=(Inh Prm Eff Amb) mask=0
  # 1 << CAP_NET_ADMIN
  [ -z "${KEPT-}" ] || mask=1000
  if [ ${#BESIDE[@]} -gt 0 ] || may_set_capabilities; then sets+=(Bnd); fi
  awk -v sets="${sets[*]}" -v mask="$mask" '
    BEGIN { split(sets, list, " "); for (i in list) wanted["Cap" list[i] ":"] = 1 }
    $1 == "NoNewPrivs:" && $2 != 1 { print }
    $1 in wanted {
      allowed = $1 ~ /Inh|Amb/ ? 0 : mask; sub(/^0+/, "", $2)
      if ($2 != "" && $2 != allowed) print
    }' "$1/status" 2>/dev/null
}

# --- interoperability ----------------------------------------------------------------------------------------------

# interop_battery: what 07x-interop-* have in common. The scenario defines `far CMD…` (a command at the far end),
# `far_wg ARG…`, FAR_INTERFACE, FAR_ADDRESS, HOST_ADDRESS, and has iperf3 listening at the far end.
interop_battery() {
  local role psk
  for psk in no yes; do
    for role in initiator responder; do
      step "we are the $role; preshared key: $psk"
      interop_round "$role" "$psk"
    done
  done
}

interop_round() { # ROLE PSK
  local conf=("ListenPort = 51821") peer=("Endpoint = $FAR_ADDRESS:51820") psk="" sums
  # A fresh key of ours for every round: the far end knows no session and no timestamp of it.
  far_wg set "$FAR_INTERFACE" peer "$(pub a)" remove
  make_key a
  if [ "$2" = yes ]; then
    psk=$(wg genpsk); peer+=("PresharedKey = $psk")
  fi
  [ "$1" = initiator ] || peer[0]="Endpoint ="
  our_conf "$W/wg0.conf" "${conf[@]}" -- "${peer[@]}"
  far_peer "$psk" "$([ "$1" = initiator ] || echo "$HOST_ADDRESS:51821")"
  start_target
  attach
  if [ "$1" = initiator ]; then
    in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "the first packet is not answered"
  else
    far ping -c 1 -W 5 10.6.0.1 >/dev/null || fail "the far end's first packet is not answered"
  fi
  in_target ping -c 3 -i 0.2 -W 5 10.6.0.2 >/dev/null || fail "no answer over IPv4"
  in_target ping -c 3 -i 0.2 -W 5 fd06::2 >/dev/null || fail "no answer over IPv6"
  in_target ping -c 1 -s 8000 -W 5 10.6.0.2 >/dev/null || fail "no answer to fragments"
  far ping -c 3 -i 0.2 -W 5 fd06::1 >/dev/null || fail "the far end gets no answer over IPv6"
  iperf "TCP" -c 10.6.0.2 -n "${IPERF_BYTES:-16M}"
  iperf "TCP, the other way" -c 10.6.0.2 -n "${IPERF_BYTES:-16M}" -R
  iperf "TCP over IPv6" -c fd06::2 -n "${IPERF_BYTES:-16M}"
  # Slow enough that a process which does not run for half a second on a busy machine loses nothing.
  iperf "UDP" -c 10.6.0.2 -u -b 1M -t 1 -l 1300
  iperf "UDP over IPv6, the other way" -c fd06::2 -u -b 1M -t 1 -l 500 -R
  kill "$OURS"; wait_for "the end" 2 gone "$OURS"
  kill "$TARGET"
  assert_nothing_left
}

# far_peer PSK ENDPOINT: our side as the far end's peer, either may be empty.
far_peer() {
  local words; words="peer $(pub a) allowed-ips 10.6.0.1/32,fd06::1/128"
  [ -z "$2" ] || words+=" endpoint $2"
  if [ -n "$1" ]; then
    (umask 077; printf '%s\n' "$1" >"$W/psk")
    if [ "$FAR_INTERFACE" = wg0 ]; then vm "echo $1 > /psk"; words+=" preshared-key /psk"; else words+=" preshared-key $W/psk"; fi
  fi
  # shellcheck disable=SC2086 # words
  far_wg set "$FAR_INTERFACE" $words
}

iperf() { # WHAT ARG…
  local what=$1 _; shift
  # The server is busy for a moment after each test.
  for _ in {1..50}; do
    capture in_target timeout 60 iperf3 -J "$@"
    [[ $OUT$ERR == *"server is busy"* ]] || break
    sleep 0.1
  done
  [ "$STATUS" = 0 ] || { said; fail "$what: iperf3 failed"; }
  if [[ " $* " == *" -u "* ]]; then
    jq -e '.end.sum.lost_percent < 5' <<<"$OUT" >/dev/null || fail "$what: $(jq .end.sum.lost_percent <<<"$OUT") % lost"
  else
    jq -e '.end.sum_received.bytes > 300000' <<<"$OUT" >/dev/null || fail "$what: nothing came"
  fi
}
