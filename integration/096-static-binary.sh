#!/bin/bash
# The shipped binary is static and at most 8 MB, and it runs on a root file system that holds nothing else, where it
# still resolves an endpoint's name.
#
#   target wg0 ── wg4netns (in an empty root) :host ── h0 ═ p0 ── wireguard-go :peer
#                 dnsmasq :host 127.0.0.1 knows far.test
#
# needs: netns tun wg wireguard-go dnsmasq perl musl
# timeout: 60
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go dnsmasq perl
grep -qa '/ld-linux\|/ld-musl' <(head -c 4096 "$WG4NETNS") && skip musl "the binary under test is not static: build with --profile dist --target x86_64-unknown-linux-musl"
[ "$(uname -m)" = x86_64 ] || skip musl "the numbers of pivot_root and umount2 below are x86_64's"
peer_world
start_wireguard_go_peer
start dns dnsmasq --no-daemon --conf-file=/dev/null --no-hosts --no-resolv --user=root --group=root --pid-file= \
  --listen-address=127.0.0.1 --bind-interfaces --local=/test/ --host-record=far.test,10.9.0.2
start_target

step "size"
size=$(stat -c %s "$WG4NETNS")
assert_at_most "bytes" $((8 * 1024 * 1024)) "$size"

step "a root with nothing but the binary, its configuration, resolv.conf, /proc, /dev/net/tun"
mkdir "$W/root"
# bare CMD…: with that root and nothing of the old one.
bare() {
  unshare -m bash -c '
    root=$0
    mount -t tmpfs tmpfs "$root"; mkdir -p "$root"/{proc,dev/net,etc,run,tmp}
    mount --rbind /proc "$root/proc"; : >"$root/dev/net/tun"; mount --bind /dev/net/tun "$root/dev/net/tun"
    cp "$WG4NETNS" "$root/wg4netns"; cp "$W/wg0.conf" "$root/wg0.conf"; chmod 600 "$root/wg0.conf"
    echo "nameserver 127.0.0.1" >"$root/etc/resolv.conf"
    cd "$root"
    exec env -i perl -e '\''
      my $here = "."; syscall(155, $here, $here) == 0 or die "pivot_root: $!"; syscall(166, $here, 2) == 0 or die "umount2: $!";
      chdir "/"; exec { $ARGV[0] } @ARGV or die "exec: $!";'\'' "$@"' "$W/root" "$@"
}
our_conf "$W/wg0.conf" -- "Endpoint = far.test:51820"
capture bare /wg4netns --version
assert_status 0
start wg0 bare /wg4netns --netns-pid "$TARGET" --config /wg0.conf --wait-handshake=10 --uapi-dir /run
wait_for "an answer" 20 in_target ping -c 1 -W 1 10.6.0.2
OURS=$(pgrep -P "$STARTED") # below the shell that runs the function
assert_eq "what it runs on" "/wg4netns" "$(sed -n 's#.* \(/.*\)#\1#p' "/proc/$OURS/maps" | grep -v '^/memfd' | sort -u)"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"

step "run, there: the command is the binary itself"
capture bare /wg4netns run --no-wait --config /wg0.conf --uapi-dir /run -- /wg4netns --version
assert_status 0
assert_has "the version" wg4netns "$OUT"
