#!/bin/bash
# What is said when our own processes, names and files are not as they should be, word for word, and the exit status:
# group B of the project's fault list, and a command line that is wrong. The target's side is in 095-errors.
#
#   target ✗ wg4netns :host        nothing has to answer
#
# needs: netns tun wg strace socat
# timeout: 120
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg strace socat
make_key a; make_key b
our_conf "$W/wg0.conf"
start_target
CONF=$W/wg0.conf
start_ours() { "$WG4NETNS" --netns-pid "$TARGET" --config "$CONF" "$@"; }
no_wg0() { not in_target ip link show wg0 2>/dev/null || fail "wg0 was made"; }
dir=$(uapi_dir)
# The name that messages have for it.
mkdir -p "$dir"; chmod 700 "$dir"; named=$(realpath "$dir")

step "B3: the helper is killed before it joins the user namespace, before it joins the network's, before it answers"
# The calls of the helper alone: setns is called twice, and its last sendmsg is its answer. Every call: 210-faults.
for when in 1 2; do
  refused 5 "helper died before handover (signal 9)" '' -- \
    strace -f -qq -o "$W/strace" -e trace=setns -e "inject=setns:signal=KILL:when=$when" "$WG4NETNS" --netns-pid "$TARGET" --config "$CONF"
  assert_has "it was the helper that was killed" "killed by SIGKILL" "$(cat "$W/strace")"
  no_wg0
done
refused 125 "helper died before handover (signal 9)" '' -- \
  strace -f -qq -o "$W/strace" -e trace=unshare -e inject=unshare:signal=KILL:when=1 "$WG4NETNS" run --no-wait --config "$CONF" -- true

step "B10: the name is in use"
ours first --netns-pid "$TARGET" --config "$CONF" --name taken
capture_within 100 "time to say so" start_ours --name taken --interface wg1
assert_eq "what is said" "wg4netns: the name \`taken\` is in use by process $OURS
hint: end it with \`wg4netns stop taken\`, or choose another \`--name\`" "$ERR"
assert_status 6
capture "$WG4NETNS" run --name taken --config "$CONF" -- true
assert_has "run says the same" "wg4netns: the name \`taken\` is in use by process $OURS" "$ERR"
assert_status 125
alive "$OURS" || fail "the first was disturbed"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
assert_nothing_left

# occupied WHAT: the socket's place is taken by this; refused, and it is untouched.
occupied() {
  capture start_ours --name wg0
  assert_eq "what is said about $1" "wg4netns: cannot replace \`$named/wg0.sock\`: it is not a socket
hint: remove it, or choose another \`--name\`" "$ERR"
  assert_status 6
  no_wg0
}
step "B11: a file, a directory, a link where the socket should be"
echo precious >"$dir/wg0.sock"; occupied file
assert_eq "the file is untouched" precious "$(cat "$dir/wg0.sock")"
rm "$dir/wg0.sock"; mkdir "$dir/wg0.sock"; occupied directory; rmdir "$dir/wg0.sock"
ln -s /etc/hostname "$dir/wg0.sock"; occupied link
assert_eq "the link is untouched" /etc/hostname "$(readlink "$dir/wg0.sock")"
rm "$dir/wg0.sock"

step "B11: a socket that somebody answers on, and one that nobody does"
start other socat UNIX-LISTEN:"$dir/wg0.sock",fork,mode=600 OPEN:/dev/null
wait_for "the other's socket" 5 test -S "$dir/wg0.sock"
capture start_ours --name wg0
assert_eq "what is said" "wg4netns: cannot replace \`$named/wg0.sock\`: another program answers on it
hint: choose another \`--name\`" "$ERR"
assert_status 6
kill -9 "$STARTED"; wait_for "its end" 5 gone "$STARTED"
test -S "$dir/wg0.sock" || fail "the stale socket is not there to be replaced"
if [ "$WG4NETNS_WORLD" = root ]; then
  chown 65534 "$dir/wg0.sock"
  capture start_ours --name wg0
  assert_eq "what is said" "wg4netns: cannot replace \`$named/wg0.sock\`: it belongs to uid 65534
hint: choose another \`--name\`" "$ERR"
  assert_status 6
  chown 0 "$dir/wg0.sock"
fi
ours wg0 --netns-pid "$TARGET" --config "$CONF"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
rm -f "$dir"/wg0.*

# with_directory DIR CODE 'LINE' 'HINT'
with_directory() { refused "$2" "$3" "$4" -- start_ours --uapi-dir "$1"; no_wg0; }
another='choose another directory with `--uapi-dir`'
step "B11: the directory: others may write it, another's, no directory, too long a path"
mkdir -m 777 "$W/open"
chmod 777 "$W/open"
with_directory "$W/open" 3 "the socket directory \`$W/open\` can be written by others (mode 0777)" "\`chmod go-w $W/open\`, or $another"
foreign=/sys owner=0
if [ "$WG4NETNS_WORLD" = root ]; then foreign=$W/foreign owner=65534; mkdir -m 700 "$foreign"; chown 65534 "$foreign"; else owner=65534; fi
with_directory "$foreign" 3 "the socket directory \`$foreign\` belongs to uid $owner, not to uid 0" "$another"
rm -rf "$W/foreign"
: >"$W/file"
with_directory "$W/file" 3 "\`$W/file\` is not a directory" "$another"
long=$W/$(printf 'd%.0s' {1..90}); mkdir -m 700 "$long"
# The longest path is that of the temporary name, which has eleven letters more.
with_directory "$long" 3 "the socket path \`$long/wg0.sock\` has $((${#long} + 9 + 11)) bytes, the kernel allows 107" "$another"
rmdir "$long" "$W/open"

step "B11: the directory is on a full file system, or a read-only one: what cannot be done is nobody's fault (1)"
mkdir -m 700 "$W/mounted"
mount -t tmpfs -o size=4k,nr_inodes=1,mode=700 tmpfs "$W/mounted"
with_directory "$W/mounted" 1 "cannot lock \`$W/mounted/wg0.lock\`: No space left on device (os error 28)" ''
umount "$W/mounted"
mount -t tmpfs -o ro,mode=700 tmpfs "$W/mounted"
with_directory "$W/mounted" 1 "cannot lock \`$W/mounted/wg0.lock\`: Read-only file system (os error 30)" ''
with_directory "$W/mounted/below" 1 "cannot make the socket directory \`$W/mounted/below\`: Read-only file system (os error 30)" "$another"
umount "$W/mounted"

step "asked wrongly"
for words in "" "--netns-pid" "--netns-pid x --config $CONF" "--netns-pid 1 --netns /x --config $CONF" "no-such-command now" "--netns-pid $TARGET --config $CONF --mtu 5"; do
  # shellcheck disable=SC2086 # words
  capture "$WG4NETNS" $words
  assert_status 2
  assert_eq "stdout" "" "$OUT"
done
assert_nothing_left
