# shellcheck shell=bash disable=SC2034
# Group B: our own processes.

covered B1 "the parent is killed ten times: the link is gone in 100 ms" 061-kill-parent

# try_start [BEFORE…]: starts a tunnel that may fail to start; leaves STATUS, OUT, ERR. A tunnel that does start is told to
# end when it is ready. One clear line, and never a panic.
try_start() {
  rm -f "$W/try.ready"
  "$@" "$WG4NETNS" --netns-pid "$TARGET" --config "$W/wg0.conf" --ready-fd 9 >"$W/try.out" 2>"$W/try.err" 9>"$W/try.ready" &
  local pid=$!
  wait_for "a start or a failure" 15 ready_or_dead try "$pid"
  if [ -s "$W/try.ready" ]; then kill "$(our_parent)" 2>/dev/null || true; fi
  STATUS=0; wait "$pid" || STATUS=$?
  ERR=$(cat "$W/try.err"); OUT=$(cat "$W/try.out")
  # Before main there is only Rust's runtime, which has no other way to end.
  assert_lacks "no panic" panicked "$(grep -v 'panicked at /rustc/.*/library/std/src/sys/' <<<"$ERR")"
}
our_parent() { our_processes | awk '{ print $1 }'; }
nothing_made() { wait_for "no link ($1)" 5 no_link; wait_for "no process ($1)" 5 no_processes; no_files || { find "$(uapi_dir)" "$XDG_RUNTIME_DIR" "$TMPDIR" -mindepth 1 -ls >&2; [ -z "${ERR-}" ] || said; fail "files are left ($1)"; }; }

fault B3 "the helper is killed at $(how_many "every third" every) system call of its life" "exit 5 and a line, or done; nothing left" helper_at_every_call KILL
fault B3b "$(how_many "every third" every) system call of the helper fails once: EPERM" "a line or a way round; nothing left" helper_at_every_call 1
long_fault B3c "every system call of the helper fails once: ENOMEM" "a line or a way round; nothing left" helper_at_every_call 12
long_fault B3d "every system call of the helper fails once: EINTR" "a line or a way round; nothing left" helper_at_every_call 4
long_fault B3e "every system call of the helper fails once: EMFILE" "a line or a way round; nothing left" helper_at_every_call 24
long_fault B3f "every system call of the helper fails once: ENOSYS" "a line or a way round; nothing left" helper_at_every_call 38
helper_at_every_call() { # FAULT [ONE OF SO MANY CALLS IN THE SHORT FORM]
  [ "$(uname -m)" = x86_64 ] || skipped x86_64 "kill-at.c knows no other machine"
  hostile_target
  try_start "$BOARD/kill-at" KILL 0 __namespace-child 8>"$W/calls"
  local total began started=0 ended=0 n; total=$(cat "$W/calls")
  [ "$total" -ge 30 ] || fail "a helper with $total calls: that is none"
  began=$(now_ms)
  # Some of them in the short form, others with another seed; all in the long one.
  local step; step=$(how_many "${2:-3}" 1)
  for ((n = 1 + RANDOM % step; n <= total; n += step)); do
    try_start "$BOARD/kill-at" "$1" "$n" __namespace-child 8>"$W/calls"
    if [ "$STATUS" = 0 ] && [ -s "$W/try.ready" ]; then started=$((started + 1)); else ended=$((ended + 1)); fi
    if [ "$STATUS" != 0 ]; then
      [ "$(grep -c '^wg4netns: ' <<<"$ERR")" -ge 1 ] || { said; fail "no line at call $n"; }
      case $STATUS in 1 | 4 | 5 | 6) ;; *) said; fail "status $STATUS at call $n" ;; esac
      if [ "$1" = KILL ]; then assert_has "what is said at call $n" "helper died before handover" "$ERR"; assert_status 5; fi
    fi
    nothing_made "call $n of $total"
  done
  recovery $((($(now_ms) - began) * step / total))
  tell "$total calls: $ended refused, $started started all the same"
}

fault B4 "the helper hangs (is stopped at its 20th call)" "exit 1 or 5 in 6 s" helper_hangs
helper_hangs() {
  [ "$(uname -m)" = x86_64 ] || skipped x86_64 "kill-at.c knows no other machine"
  hostile_target
  local began; began=$(now_ms)
  try_start "$BOARD/kill-at" STOP 20 __namespace-child 8>"$W/calls"
  [ "$STATUS" != 0 ] || fail "it started"
  assert_at_most "time to give up (ms)" 7000 $(($(now_ms) - began)); recovery $(($(now_ms) - began))
  tell "$(grep -m 1 '^wg4netns' <<<"$ERR")"
  nothing_made "a helper that hangs"
}

fault B1 "the parent is killed at random moments, $(how_many 50 1000) times" "nothing left, the next one starts" killed_at_random
killed_at_random() { # [TIMES, SHORT AND LONG]
  hostile_target
  local n total longest delay early=0 late=0
  total=$(how_many "${1:-50}" "${2:-1000}")
  local began; began=$(now_ms); attach; longest=$((($(now_ms) - began) * 1500)); kill "$OURS"; wait_for "its end" 3 gone "$OURS"
  for ((n = 0; n < total; n++)); do
    delay=$(((RANDOM * 32768 + RANDOM) % longest))
    rm -f "$W/try.ready"
    timeout -s KILL "$(printf '0.%06d' "$delay")" "$WG4NETNS" --netns-pid "$TARGET" --config "$W/wg0.conf" --ready-fd 9 >"$W/try.out" 2>&1 9>"$W/try.ready" || true
    if [ -s "$W/try.ready" ]; then late=$((late + 1)); else early=$((early + 1)); fi
    assert_lacks "no panic" panicked "$(cat "$W/try.out")"
    wait_for "no link (killed after $delay µs)" 5 no_link; recovery "$WAITED_MS"
    wait_for "no process (killed after $delay µs)" 5 no_processes
  done
  : >"$W/was-killed"
  attach; talks # over what the dead ones left
  tell "$early before it was ready, $late after"
}

fault B2 "SIGTERM, SIGINT, SIGHUP at random moments, $(how_many 30 1000) times" "ends ≤ 1 s, nothing left" signalled_at_random
signalled_at_random() { # [TIMES, SHORT AND LONG]
  hostile_target
  local n total longest delay signals=(TERM INT HUP)
  total=$(how_many "${1:-30}" "${2:-1000}")
  local began; began=$(now_ms); attach; longest=$((($(now_ms) - began) * 1500)); kill "$OURS"; wait_for "its end" 3 gone "$OURS"
  for ((n = 0; n < total; n++)); do
    delay=$(((RANDOM * 32768 + RANDOM) % longest))
    STATUS=0
    timeout -s "${signals[n % 3]}" -k 2 "$(printf '0.%06d' "$delay")" "$WG4NETNS" --netns-pid "$TARGET" --config "$W/wg0.conf" >"$W/try.out" 2>&1 || STATUS=$?
    assert_lacks "no panic" panicked "$(cat "$W/try.out")"
    [ "$STATUS" = 124 ] || fail "status $STATUS after ${signals[n % 3]} at $delay µs"
    nothing_made "${signals[n % 3]} after $delay µs"; recovery "$WAITED_MS"
  done
}

fault B6 "RLIMIT_NOFILE from 3 to 40" "a line, or works" few_descriptors
few_descriptors() {
  hostile_target
  local n least=0
  for n in 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 22 24 28 32 40; do
    try_start prlimit --nofile="$n"
    # Below ten there is not even room for the loader and the script around it.
    if [ "$STATUS" = 0 ]; then [ "$least" != 0 ] || least=$n; elif [ "$n" -ge 10 ]; then assert_has "a line at $n" "wg4netns: " "$ERR"; fi
    nothing_made "$n descriptors"
  done
  [ "$least" != 0 ] || fail "40 descriptors are not enough"
  tell "starts with $least"
}
# limited 'PRLIMIT-OPTION' HOW: yes, it must work; any, it says a line if it does not; quiet, it ends by itself
limited() {
  hostile_target
  try_start prlimit "$1"
  case $2 in
    yes) assert_status 0 ;;
    quiet) [ "$STATUS" -lt 128 ] || { said; fail "ended by a signal: $STATUS"; } ;;
    *) [ "$STATUS" = 0 ] || assert_matches "a line" 'wg4netns: |memory allocation of .* failed|cannot allocate memory|cannot map|failed to map' "$ERR" ;;
  esac
  nothing_made "$1"
  tell "status $STATUS $(grep -m 1 '^wg4netns' <<<"$ERR" | cut -c 1-90)"
}
fault B7a "RLIMIT_AS 16 MB" "a line (the allocator's own counts), or works" limited --as=16000000 any
fault B7b "RLIMIT_AS 64 MB" "a line, or works" limited --as=64000000 any
fault B7c "RLIMIT_MEMLOCK 0" "works, says that keys may be swapped" limited --memlock=0 yes
fault B7d "RLIMIT_FSIZE 0 (stderr is a file, too)" "works or refuses; no SIGXFSZ" limited --fsize=0 quiet
fault B7e "RLIMIT_NPROC 1" "a line, or works" limited --nproc=1 any
long_fault B7h "RLIMIT_CPU 1 s, and work for more than that" "ends by its signal; nothing left" cpu_limit
cpu_limit() {
  hostile_target
  rm -f "$W/wg0.ready"
  start wg0 prlimit --cpu=1 "$WG4NETNS" --netns-pid "$TARGET" --config "$W/wg0.conf" --ready-fd 9 9>"$W/wg0.ready"
  # shellcheck disable=SC2153 # of lib.sh
  OURS=$STARTED
  wait_for "ready" 10 ready_or_dead wg0 "$OURS"
  start flood nsenter -t "$TARGET" -U -n --preserve-credentials -- ping -f -q -s 1300 10.6.0.2
  wait_for "the helper's end" 60 gone "$OURS"; wait_for "no link" 5 no_link
  kill -9 "$STARTED"; : >"$W/was-killed"
}
fault B7f "RLIMIT_STACK 512 kB" "works" limited --stack=524288 yes
# own_cgroup CONTROLLER KNOB-OF-VERSION-1 KNOB-OF-VERSION-2: leaves group and knob.
own_cgroup() {
  for group in "/sys/fs/cgroup/$1" /sys/fs/cgroup; do
    group+=/wg4netns-fault.$$
    mkdir "$group" 2>/dev/null || continue
    for knob in "$2" "$3"; do [ ! -w "$group/$knob" ] || return 0; done
    rmdir "$group"
  done
  skipped "$1-cgroup" "none can be made here"
}
fault B7g "a memory cgroup of 16 MB, while junk rains" "lives, talks" small_cgroup
small_cgroup() {
  own_cgroup memory memory.limit_in_bytes memory.max
  echo 16777216 >"$group/$knob" 2>/dev/null || { rmdir "$group"; skipped memory-cgroup "its limit cannot be set"; }
  fresh
  echo "$OURS" >"$group/cgroup.procs"
  on peer "$FAULTS/junk" 7 "$("$WG4NETNS" show wg0 listen-port)" >/dev/null
  in_target ping -f -c 2000 -s 1300 -q 10.6.0.2 >/dev/null || true
  lives; recovers 2
  kill "$OURS"; wait_for "its end" 3 gone "$OURS"
  rmdir "$group"
}

# streams WHAT: a tunnel whose standard streams are no help lives all the same.
streams() {
  hostile_target
  rm -f "$W/wg0.ready"
  local words=("$WG4NETNS" -vv --netns-pid "$TARGET" --config "$W/wg0.conf" --ready-fd 9)
  case $1 in
    closed) "${words[@]}" <&- >&- 2>&- 9>"$W/wg0.ready" & ;;
    full) "${words[@]}" >/dev/full 2>/dev/full 9>"$W/wg0.ready" & ;;
    stuck)
      mkfifo "$W/stuck"; exec 7<>"$W/stuck"
      # The pipe is filled, and nobody reads it.
      timeout 1 dd if=/dev/zero of="$W/stuck" bs=4096 count=64 oflag=nonblock 2>/dev/null || true
      "${words[@]}" 2>"$W/stuck" >&2 9>"$W/wg0.ready" 7>&- & ;;
    gone) { "${words[@]}" 2>&1 9>"$W/wg0.ready" & echo $! >"$W/pid"; } | true ;;
  esac
  if [ "$1" = gone ]; then OURS=$(cat "$W/pid"); else OURS=$!; fi
  OWN_PIDS+=("$OURS")
  wait_for "ready" 10 ready_or_dead wg0 "$OURS"
  talks; recovery "$WAITED_MS"
  in_target ping -c 20 -i 0.01 -q -W 1 10.6.0.2 >/dev/null || fail "packets are lost"
  if [ "$1" = stuck ]; then exec 7>&-; fi
}
fault B8a "standard streams are closed" "works" streams closed
fault B8b "standard streams are on a full disk" "works" streams full
fault B8c "stderr is a full pipe that nobody reads, at -vv" "works, data does not wait" streams stuck
fault B8d "stderr is a pipe whose reader is gone" "works" streams gone

fault B9 "stopped for $(how_many 2 200) s (SIGSTOP), then continued" "answers ≤ 1 s" stopped
stopped() {
  fresh
  kill -STOP "$OURS"
  stays "the stopped helper" "$(how_many 2 200)" alive "$OURS"
  kill -CONT "$OURS"
  recovers "$(how_many 1 7)"
}
fault B9b "frozen by the freezer cgroup for 2 s" "answers ≤ 1 s" frozen
frozen() {
  local frozen=FROZEN thawed=THAWED
  own_cgroup freezer freezer.state cgroup.freeze
  [ "$knob" = freezer.state ] || { frozen=1; thawed=0; }
  fresh
  echo "$OURS" >"$group/cgroup.procs"
  echo $frozen >"$group/$knob"; stays "the frozen helper" 2 alive "$OURS"; not answer >/dev/null 2>&1 || fail "an answer came: it is not frozen"
  echo $thawed >"$group/$knob"
  recovers 1
  kill "$OURS"; wait_for "its end" 3 gone "$OURS"
  rmdir "$group"
}

fault B10 "a second one of the same name" "exit 6 ≤ 100 ms, the first untouched" same_name
same_name() {
  fresh
  local shown; shown=$("$WG4NETNS" showconf wg0)
  refuses 6 "wg0" "$WG4NETNS" --netns-pid "$TARGET" --config "$W/wg0.conf" --name wg0 --interface wg1
  recovery "$TOOK_MS"
  assert_eq "the first one" "$shown" "$("$WG4NETNS" showconf wg0)"
  recovers 1
}
fault B11a "the socket's file is removed under it" "lives (ends only where that is the way to stop it)" socket_removed
socket_removed() { fresh; rm "$(uapi_dir)/wg0.sock"; stays "the helper" 1 alive "$OURS"; recovers 1; }
fault B11b "the lock's file is removed under it; a second one starts" "both live, each with its own" lock_removed
lock_removed() {
  fresh
  rm -f "$(uapi_dir)"/wg0.lock
  capture timeout 5 "$WG4NETNS" --netns-pid "$TARGET" --config "$W/wg0.conf" --name wg0 --interface wg1
  assert_lacks "no panic" panicked "$ERR"
  tell "the second ends with $STATUS"
  recovers 1
}
fault B11c "the runtime directory is on a full file system" "a line, nothing touched" full_directory
full_directory() {
  hostile_target
  mkdir "$W/full"; mount -t tmpfs -o size=4k,nr_inodes=2 tmpfs "$W/full"; : >"$W/full/x" || true
  chmod 700 "$W/full"
  refuses 1 "No space left" "$WG4NETNS" --netns-pid "$TARGET" --config "$W/wg0.conf" --uapi-dir "$W/full"
  tell "$(head -n 1 <<<"$ERR" | cut -c 1-100)"
  umount "$W/full"; rmdir "$W/full"; nothing_made "a full directory"
}
fault B11d "the runtime directory is read-only" "a line, nothing touched" read_only_directory
read_only_directory() {
  hostile_target
  mkdir -m 700 "$W/ro"; mount -t tmpfs -o ro,mode=700 tmpfs "$W/ro"
  refuses 1 "Read-only" "$WG4NETNS" --netns-pid "$TARGET" --config "$W/wg0.conf" --uapi-dir "$W/ro"
  umount "$W/ro"; rmdir "$W/ro"; nothing_made "a read-only directory"
}
fault B12 "started and ended $(how_many 30 1000) times in a row" "nothing grows" storm
storm() {
  hostile_target
  local n total mounts inodes; total=$(how_many 30 1000)
  for ((n = 0; n < total; n++)); do
    [ "$n" != 3 ] || { mounts=$(wc -l </proc/self/mounts); inodes=$(find "$W/runtime" "$W/state" "$W/tmp" | wc -l); }
    try_start env; assert_status 0; nothing_made "start $n"
  done
  assert_eq "mounts" "$mounts" "$(wc -l </proc/self/mounts)"
  assert_eq "files" "$inodes" "$(find "$W/runtime" "$W/state" "$W/tmp" | wc -l)"
}
fault B13 "the file of the program is replaced while it runs" "lives" program_replaced
program_replaced() {
  cp "$WG4NETNS" "$W/copy"; hostile_target
  WG4NETNS=$W/copy attach; talks
  mv "$W/copy" "$W/copy.old"; echo "#!/bin/false" >"$W/copy"; chmod +x "$W/copy"
  stays "the helper" 1 alive "$OURS"; recovers 1
  kill "$OURS"; wait_for "its end" 3 gone "$OURS"; rm "$W/copy" "$W/copy.old"
}

# --- the helpers that stay -------------------------------------------------------------------------------------------

# Each is killed at the system calls of its life: as it starts, as it works, as it ends. Either the tunnel says why it does
# not start, or it goes on and says what it is without; nothing is left.
fault B14a "the factory of sockets is killed at $(how_many "some of its" "each of its") calls" "a line, or goes on and says so; nothing left" \
  helper_that_stays __socket-factory "nothing more is forwarded to the inside"
fault B14b "the forwarder of ports is killed at $(how_many "some of its" "each of its") calls" "a line, or goes on and says so; nothing left" \
  helper_that_stays __forwarder "ports are no longer forwarded"
fault B14c "the broker of names is killed at $(how_many "some of its" "each of its") calls" "a line, or goes on and says so; nothing left" \
  helper_that_stays __broker "endpoint names are no longer resolved"
fault B14d "the remover of files is killed at $(how_many "some of its" "each of its") calls" "a line, or goes on and says so; nothing left" \
  helper_that_stays __remover "wg0.pid\` will be left behind"
helper_that_stays() { # HELPER WHAT IS SAID OF ITS END
  [ "$(uname -m)" = x86_64 ] || skipped x86_64 "kill-at.c knows no other machine"
  hostile_target
  no_nscd
  printf '127.0.0.1 localhost\n10.9.0.2 far.test\n' >"$W/hosts"; mount --bind "$W/hosts" "$(realpath /etc/hosts)"
  our_conf "$W/helpers.conf" "DNS = 10.6.0.2" -- "Endpoint = far.test:51820"
  start inside nsenter -t "$TARGET" -U -n --preserve-credentials -- socat TCP4-LISTEN:8000,fork,reuseaddr SYSTEM:cat
  start inside nsenter -t "$TARGET" -U -n --preserve-credentials -- socat UDP4-RECVFROM:8001,fork 'SYSTEM:read -r line; echo "$line"'
  start outside socat TCP4-LISTEN:5432,bind=127.0.0.1,fork,reuseaddr SYSTEM:cat
  echo 192.0.2.7 >"$W/answer"
  start names nsenter --net=/run/netns/peer -- "$FAULTS/names" 10.6.0.2 "$W/answer"
  wait_for "the name server" 5 grep -q answering "$W/names.log"
  wait_for "the servers inside" 5 in_target sh -c 'ss -Hltn | grep -q :8000 && ss -Hlun | grep -q :8001'
  wait_for "the server outside" 5 sh -c 'ss -Hltn | grep -q 127.0.0.1:5432'
  local total step last n began refused=0 went_on=0 unhurt=0
  one_life "$1" 0 "$2"
  [ "$STATUS" = 0 ] || { said; fail "it does not start"; }
  total=$(cat "$W/calls"); [ "$total" -ge 20 ] || fail "a helper with $total calls: that is none"
  step=$(how_many $((total / 10)) 1); began=$(now_ms)
  # Those by which a remover does its work are its last, and few.
  last=$([ "$1" = __remover ] && echo 12 || echo 3)
  for n in $({ seq $((1 + RANDOM % step)) "$step" "$total"; seq $((total - last)) "$total"; } | sort -nu); do
    one_life "$1" "$n" "$2"
    if [ "$STATUS" != 0 ]; then
      refused=$((refused + 1))
      assert_matches "a line at call $n" '(^|'$'\n'')wg4netns: ' "$ERR"
      case $STATUS in 1 | 5) ;; *) said; fail "status $STATUS at call $n" ;; esac
    elif is_hit; then went_on=$((went_on + 1)); else unhurt=$((unhurt + 1)); fi
  done
  recovery $((($(now_ms) - began) * step / total))
  [ $((went_on * refused)) -gt 0 ] || fail "$refused refused, $went_on went on: some part of its life was left out"
  umount "$(realpath /etc/hosts)" /run/nscd
  tell "$total calls: $refused refused, $went_on went on, $unhurt unhurt"
}
is_hit() { grep -q '^hit' "$W/calls"; }
# one_life HELPER N WHAT IS SAID: a tunnel that has every helper, from its start to its end; all of them have work. HELPER is killed
# at its Nth call. Leaves STATUS, OUT, ERR.
one_life() {
  local pid parent work
  rm -f "$W/try.ready"; : >"$W/calls"
  "$BOARD/kill-at" KILL "$2" "$1" "$WG4NETNS" --netns-pid "$TARGET" --config "$W/helpers.conf" -p 127.0.0.1:18080:8000 -p 127.0.0.1:18081:8001/udp \
    --reach 127.0.0.1:5432 --dns-forward 10.0.2.3 --pidfile "$W/runtime/wg0.pid" --ready-fd 9 >"$W/try.out" 2>"$W/try.err" 9>"$W/try.ready" 8>"$W/calls" &
  pid=$!
  wait_for "a start or a failure" 15 ready_or_dead try "$pid"
  if [ -s "$W/try.ready" ]; then
    parent=$(cat "$W/runtime/wg0.pid")
    work=$(work_for_all)
    if is_hit; then
      wait_for "the reason (killed at call $2)" 3 grep -qF "$3" "$W/try.err"
      [ "$1" = __broker ] || wait_for "an answer without the helper" 5 answer
    else
      assert_eq "what is done by helpers that live" "published datagram reached asked" "$work"
    fi
    kill "$parent"
  fi
  STATUS=0; wait "$pid" || STATUS=$?
  ERR=$(cat "$W/try.err"); OUT=$(cat "$W/try.out")
  assert_lacks "no panic at call $2" panicked "$ERR"
  # Without its remover the file can only be told of.
  if [ -e "$W/runtime/wg0.pid" ]; then
    [ "$1" = __remover ] || fail "the pid file is left"
    assert_matches "what is said of a file that is left at call $2" 'wg0.pid` (will be|is) left behind' "$ERR"
    rm "$W/runtime/wg0.pid"
  fi
  assert_eq "ports that are open after call $2" "" "$(ss -Hltun '( sport = 18080 or sport = 18081 )')"
  nothing_made "call $2"
}
# A word for each that came about. Whoever is not there any more refuses at once, or has a second.
work_for_all() {
  local question='\0\07\01\0\0\01\0\0\0\0\0\0\04name\04test\0\0\01\0\01' done=()
  local echoes='exec 7<>"$0"; echo hello >&7; [ "$(timeout 1 dd bs=512 count=1 status=none <&7)" = hello ]'
  ! timeout 2 bash -c "$echoes" /dev/tcp/127.0.0.1/18080 2>/dev/null || done+=(published)
  ! timeout 2 bash -c "$echoes" /dev/udp/127.0.0.1/18081 2>/dev/null || done+=(datagram)
  ! in_target timeout 2 bash -c "$echoes" /dev/tcp/127.0.0.1/5432 2>/dev/null || done+=(reached)
  ! in_target timeout 2 bash -c "exec 7<>/dev/udp/10.0.2.3/53; printf '$question' >&7; timeout 1 dd bs=512 count=1 status=none <&7 | od -An -tx1 | tr -d ' \n' | grep -q 'c0000207\$'" 2>/dev/null ||
    done+=(asked)
  echo "${done[*]}"
}
