#!/bin/bash
# What starting costs: medians of ten, beside wireguard4netns (Python, wireguard-go) where that is installed.
# The aims are 15 ms, 60 ms and 10 MB; machines differ and are busy, so a median is wrong from three times that on.
#
#   target wg0 ── wg4netns or wireguard4netns :host ── h0 ═ p0 ── wireguard-go :peer
#
# needs: netns tun wg wireguard-go
# timeout: 120
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go
peer_world
start_wireguard_go_peer
our_conf "$W/wg0.conf"
median() { sort -n | awk '{ v[NR] = $1 } END { printf "%.1f", NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
now_us() { printf '%s' "${EPOCHREALTIME/[.,]/}"; }
since() { awk -v a="$1" -v b="$(now_us)" 'BEGIN { printf "%.1f\n", (b - a) / 1000 }'; }
row() { printf '%-52s %10s\n' "$1" "$2" | tee -a "$W/table" >&2; }
resident_kb() { local sum=0 kb pid; for pid; do kb=$(awk '/^VmRSS/ { print $2 }' "/proc/$pid/status" 2>/dev/null || echo 0); sum=$((sum + kb)); done; echo "$sum"; }

mkfifo "$W/ready.fifo"; exec 9<>"$W/ready.fifo"
for _ in {1..10}; do
  start_target
  begin=$(now_us)
  start wg0 "$WG4NETNS" --netns-pid "$TARGET" --config "$W/wg0.conf" --ready-fd 9
  read -r -N 1 -u 9
  since "$begin" >>"$W/attach"
  in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer"
  # shellcheck disable=SC2046 # pids
  resident_kb $(our_processes) >>"$W/resident"
  kill "$STARTED"; wait_for "the end" 5 no_processes
  kill "$TARGET"
done
exec 9<&-
for _ in {1..10}; do
  begin=$(now_us); "$WG4NETNS" run --no-wait --config "$W/wg0.conf" -- true; since "$begin" >>"$W/run"
done
row "attach to ready, ms (aim: 15)" "$(median <"$W/attach")"
row "run --no-wait -- true, ms (aim: 60)" "$(median <"$W/run")"
row "resident, all processes, after a ping, MB (aim: 10)" "$(awk '{ printf "%.1f\n", $1 / 1024 }' <"$W/resident" | median)"

# within AIM MEDIAN WHAT
within() { awk -v aim="$1" -v got="$2" 'BEGIN { exit !(got > 0 && got <= 3 * aim) }' || fail "$3: $2, and the aim is $1"; }
within 15 "$(median <"$W/attach")" "attach to ready (ms)"
within 60 "$(median <"$W/run")" "run --no-wait -- true (ms)"
within 10 "$(awk '{ printf "%.1f\n", $1 / 1024 }' <"$W/resident" | median)" "resident (MB)"

theirs=$CACHE/bin/wireguard4netns
if [ -x "$theirs" ]; then
  for _ in {1..10}; do
    start_target
    begin=$(now_us)
    (cd "$W/tmp" && timeout 20 "$theirs" "$TARGET" wg0 "$W/wg0.conf" >>"$W/theirs.log" 2>&1) || { note "wireguard4netns failed: $(tail -n 1 "$W/theirs.log")"; break; }
    since "$begin" >>"$W/theirs"
    # It sets no addresses.
    in_target ip addr replace 10.6.0.1/24 dev wg0; in_target ip link set wg0 up
    in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || note "wireguard4netns: no answer"
    pids=()
    for exe in /proc/[0-9]*/cmdline; do
      pid=${exe//[!0-9]/}
      [ "$pid" = "$PEER_PID" ] && continue
      tr '\0' ' ' <"$exe" 2>/dev/null | grep -Eq 'wireguard4netns|wireguard-go' && pids+=("$pid")
    done
    resident_kb "${pids[@]}" >>"$W/theirs_resident"
    kill -9 "${pids[@]}" "$TARGET" 2>/dev/null || true
    rm -f "$W"/tmp/*.sock
  done
  if [ -s "$W/theirs" ]; then
    row "wireguard4netns: until configured, ms" "$(median <"$W/theirs")"
    row "wireguard4netns: resident, MB" "$(awk '{ printf "%.1f\n", $1 / 1024 }' <"$W/theirs_resident" | median)"
  fi
else
  note "wireguard4netns is not here: integration/tools/bench-peers integration/.cache wireguard4netns"
fi
