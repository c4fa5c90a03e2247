#!/bin/bash
# What is said about a configuration that is wrong: file, line, key, what is allowed; never the value of a key. Group E.
#
#   no target, no peer: wg4netns check FILE
#
# needs: wg
# timeout: 60
. "$(dirname "$0")/lib.sh"
need wg
no_world
make_key a; make_key b
key=$(key a); far_key=$(pub b)
good="[Interface]
PrivateKey = $key
Address = 10.6.0.1/24
[Peer]
PublicKey = $far_key
AllowedIPs = 10.6.0.0/24
Endpoint = 192.0.2.1:51820"
cd "$W"

check() { printf '%s\n' "$1" >wg0.conf; chmod 600 wg0.conf; capture "$WG4NETNS" check wg0.conf; }
# wrong 'SAID' FILE-TEXT: refused with this line, status 3; the private key is nowhere.
wrong() {
  check "$2"
  assert_eq "what is said about: $2" "wg4netns: $1" "$(head -n 1 <<<"$ERR")"
  assert_lacks "the key is not quoted" "$key" "$OUT$ERR"
  assert_status 3
}

step "a good one is good: as it is, with BOM, CRLF, tabs, comments, repeated keys"
check "$good"; assert_status 0
check "$(printf '\357\273\277%s' "$good")"; assert_status 0
check "$(sed 's/$/\r/' <<<"$good")"; assert_status 0
check "$(sed 's/ = /\t=\t/; s/$/ # comment/' <<<"$good")"; assert_status 0
check "$good
AllowedIPs = 10.7.0.0/24, fd00::/8"; assert_status 0

step "wrong ones"
wrong '`wg0.conf`: the file is empty' ''
wrong '`wg0.conf`: there is no `[Interface]` section' "[Peer]
PublicKey = $far_key"
wrong '`wg0.conf`:7: `AllowedIPs`: `10.0.0.0/33` is not an address prefix' "$(sed '6a AllowedIPs = 10.0.0.0/33' <<<"$good")"
wrong '`wg0.conf`:2: `PrivateKey`: expected 32 bytes in base64 (44 characters), found 43 characters' "$(sed "2s/=\$//" <<<"$good")"
wrong '`wg0.conf`:5: `PublicKey`: expected 32 bytes in base64 (44 characters), found 4 characters' "$(sed '5s/=.*/= abcd/' <<<"$good")"
wrong '`wg0.conf`:7: `Endpoint`: `fd00::1:51820` is an IPv6 address without brackets; expected `[address]:port`' "$(sed '7s/=.*/= fd00::1:51820/' <<<"$good")"
wrong '`wg0.conf`:7: `Endpoint`: `192.0.2.1` has no port; expected `host:port`' "$(sed '7s/=.*/= 192.0.2.1/' <<<"$good")"
wrong '`wg0.conf`:7: `Endpoint`: `192.0.2.1:65536` has a port that is not a number from 1 to 65535' "$(sed '7s/=.*/= 192.0.2.1:65536/' <<<"$good")"
wrong '`wg0.conf`:5: `PublicKey`: this is the interface'"'"'s own key, not a peer'"'"'s' "$(sed "5s|=.*|= $(pub a)|" <<<"$good")"
wrong '`wg0.conf`:2: `PrivateKey`: a key of zeros is no key' "$(sed '2s/=.*/= AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=/' <<<"$good")"
wrong '`wg0.conf`:8: `Adress` is not a key of `[Peer]`' "$good
Adress = 10.0.0.1"
wrong '`wg0.conf`:8: expected `Key = value`' "$good
what is this"
wrong '`wg0.conf`:8: expected `Key = value`' "$good
$key"
wrong '`wg0.conf`:8: a second `[Interface]` section; the first is on line 1' "$good
[Interface]"
wrong '`wg0.conf`:1: `PrivateKey` stands before any section' "$(tail -n +2 <<<"$good")"
wrong '`wg0.conf`:4: `[Pear]` is not a section' "$(sed '4s/Peer/Pear/' <<<"$good")"

for mtu in 0 575 65536; do wrong "\`wg0.conf\`:4: \`MTU\`: \`$mtu\` is not a number of bytes from 576 to 65535" "$(sed "3a MTU = $mtu" <<<"$good")"; done
wrong '`wg0.conf`:8: `PresharedKey`: expected 32 bytes in base64 (44 characters), found 4 characters' "$(sed '7a PresharedKey = abc=' <<<"$good")"
for key in "$(head -c 31 /dev/zero | base64)=31" "$(head -c 33 /dev/zero | base64)=33"; do
  wrong "\`wg0.conf\`:2: \`PrivateKey\`: expected 32 bytes in base64 (44 characters), found ${key##*=} bytes" "$(sed "2s|= .*|= ${key%=*}|" <<<"$good")"
done
wrong '`wg0.conf`:2: `PrivateKey`: expected 32 bytes in base64 (44 characters), found characters that are not base64' "$(sed '2s/= .*/= AAAAAAAAAAAAAAAAAAAA!AAAAAAAAAAAAAAAAAAAAAA=/' <<<"$good")"
wrong '`wg0.conf`:7: `Endpoint`: `192.0.2.1:0` has a port that is not a number from 1 to 65535' "$(sed '7s/:51820/:0/' <<<"$good")"
wrong '`wg0.conf`:4: `ListenPort`: `65536` is not a port from 0 to 65535' "$(sed '3a ListenPort = 65536' <<<"$good")"
wrong '`wg0.conf`:8: `PersistentKeepalive`: `65536` is not `off` or a number of seconds from 0 to 65535' "$(sed '7a PersistentKeepalive = 65536' <<<"$good")"
wrong '`wg0.conf`:4: this `[Peer]` has no `PublicKey`' "$(sed 5d <<<"$good")"
wrong '`wg0.conf`:1: `PrivateKey` is missing' "$(sed 2d <<<"$good")"
wrong '`wg0.conf`:1: is not UTF-8 text' $'\377'"$good"

step "what is accepted with a word"
make_key c
check "$good
[Peer]
PublicKey = $(pub c)
AllowedIPs = 10.6.0.0/24"
assert_eq "overlapping AllowedIPs" 'wg4netns: warning: `wg0.conf`:10: `AllowedIPs`: `10.6.0.0/24` was another peer'"'s before; the last one gets it" "$ERR"
assert_status 0
check "$good
[Peer]
PublicKey = $far_key"
assert_eq "the same peer twice" 'wg4netns: warning: `wg0.conf`:8: this peer was configured before; the later section replaces the earlier' "$ERR"
assert_status 0
check "$(sed '6s/0\/24/77\/24/' <<<"$good")"
assert_has "host bits are masked" "allowed ips: 10.6.0.0/24" "$OUT"
check "$(sed '7s/=.*/= [fe80::1%eth0]:51820/' <<<"$good")"
assert_has "an endpoint with its scope" "endpoint: [fe80::1%eth0]:51820" "$OUT"

# unfit 'SAID' CMD…: refused with this line and no hint, status 3.
unfit() {
  local line=$1; shift
  capture timeout 10 "$@"
  assert_eq "what is said" "wg4netns: $line" "$ERR"
  assert_eq "stdout" "" "$OUT"
  assert_status 3
}
step "files that are none"
unfit 'cannot open `missing.conf`: No such file or directory (os error 2)' "$WG4NETNS" check missing.conf
mkdir dir.conf; unfit '`dir.conf` is a directory, not a file or a pipe' "$WG4NETNS" check dir.conf
unfit '`/dev/zero` is a device, not a file or a pipe' "$WG4NETNS" check /dev/zero
truncate -s 10G large.conf; unfit '`large.conf` is larger than 1024 KiB' "$WG4NETNS" check large.conf
printf '%s\n' "$good" >secret.conf; chmod 0 secret.conf
if [ "$(id -u)" = 0 ]; then
  chmod 711 "$W"
  unfit "cannot open \`$W/secret.conf\`: Permission denied (os error 13)" setpriv --reuid 65534 --regid 65534 --clear-groups "$WG4NETNS" check "$W/secret.conf"
else
  unfit 'cannot open `secret.conf`: Permission denied (os error 13)' "$WG4NETNS" check secret.conf
fi
unfit 'the environment variable `SURELY_NOT_SET` is not set' "$WG4NETNS" --netns-pid 1 --config-env SURELY_NOT_SET
capture "$WG4NETNS" check nobody
assert_has "where it was sought" "wg4netns: no configuration \`nobody\`: \`$XDG_CONFIG_HOME/wg4netns/nobody.conf\` " "$ERR"
assert_status 3

step "warnings: a key others may read, scripts that are never run, a mark that cannot be set"
printf '%s\n' "$(sed "3a PostUp = touch $W/ran\nPreDown = touch $W/ran\nSaveConfig = true\nFwMark = 7" <<<"$good")" >warned.conf; chmod 644 warned.conf
capture "$WG4NETNS" check warned.conf
assert_status 0
assert_eq "the warnings" "wg4netns: warning: \`warned.conf\`: the file can be read by others (mode 0644); \`chmod 600\` it
wg4netns: warning: \`warned.conf\`:4: \`PostUp\` is never executed
wg4netns: warning: \`warned.conf\`:5: \`PreDown\` is never executed
wg4netns: warning: \`warned.conf\`:6: \`SaveConfig\` is ignored: the file is never written
wg4netns: warning: \`warned.conf\`:7: \`FwMark\` is not set: it takes privileges over the host's network" "$ERR"
test ! -e "$W/ran" || fail "a script was run"

step "--strict-perms: such a file is refused"
exposed="wg4netns: \`warned.conf\`: the file can be read by others (mode 0644); \`chmod 600\` it"
for command in "3 check --strict-perms warned.conf" "125 run --strict-perms -c ./warned.conf -- true" "3 --netns-pid 1 --strict-perms -c ./warned.conf"; do
  # shellcheck disable=SC2086 # words
  capture "$WG4NETNS" ${command#* }
  assert_status "${command%% *}"
  assert_has "$command" "${exposed#*warned.conf}" "$ERR"
done
chmod 600 warned.conf
capture "$WG4NETNS" check --strict-perms warned.conf
assert_status 0
