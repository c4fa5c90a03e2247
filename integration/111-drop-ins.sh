#!/bin/bash
# drop-ins install|remove: one file; without a chosen configuration every container has the engine's usual network, the bridge
# and `podman build` work; with `--config` they are all in the tunnel; removed, `--wg-config` fails.
#
#   container ── bridge ── rootless-netns ── wg0/tap0 ── wg4netns :host ── h0 ═ p0 ── wireguard-go :peer ── page at 10.6.0.2
#
# needs: netns tun wg wireguard-go socat dnsmasq nft engines buildah
# timeout: 180
# as: root
. "$(dirname "$0")/lib.sh"

# A tunnel's type is 65534.
LINK='cat /sys/class/net/[!l]*/type'
PAGE='wget -qO- http://10.6.0.2/'
# Without a tunnel, by way of the host.
PLAIN='wget -qO- http://10.9.0.2:8080/'

inside() {
  local drop_in=~/.config/containers/containers.conf.d/wg4netns.conf before
  cp "$SHARED/wg0.conf" ~/.config/wg4netns/work.conf; chmod 600 ~/.config/wg4netns/*
  if [ "$ENGINE" = trixie ]; then face=pasta; else face=slirp4netns; fi
  before=$(helpers)
  files >"$W/files.before"

  step "one file and two copies, and it says what else is needed"
  capture "$WG4NETNS" drop-ins install; said
  assert_status 0
  assert_has "for rootlesskit" "--slirp4netns-binary=$HOME/.local/share/wg4netns/libexec/slirp4netns" "$OUT"
  files >"$W/files.after"
  assert_eq "files" "$drop_in
$HOME/.local/share/wg4netns/libexec/pasta
$HOME/.local/share/wg4netns/libexec/slirp4netns" "$(comm -13 "$W/files.before" "$W/files.after")"
  capture podman info
  assert_has "podman finds us" "wg4netns/libexec/$face" "$OUT"

  step "nothing chosen: the engine's usual network, its bridge, its helpers, its build"
  assert_eq "helpers" "$before" "$(helpers)"
  capture podman run --rm busybox sh -c "$LINK; $PLAIN"; said
  assert_eq "an Ethernet device, and a page by it" $'1\nyou are 10.9.0.1' "$OUT"
  no_processes || fail "a process of ours"
  podman network create inner >/dev/null
  capture podman run --rm --init --network inner busybox sh -c "$LINK; $PLAIN"; said
  assert_eq "the same on the bridge" $'1\nyou are 10.9.0.1' "$OUT"
  build "FROM busybox" "RUN $PLAIN | grep -q 'you are 10.9.0.1'"
  assert_eq "tunnels" "[]" "$("$WG4NETNS" ls --json)"
  no_processes || fail "a process of ours"

  step "nothing chosen: the arguments of the next program are the engine's, byte for byte"
  untouched

  if [ "$ENGINE" = trixie ]; then
    step "pods and builds choose a tunnel"
    podman pod create --name pod --network pasta:--wg-config,work -p 127.0.0.1:18060:80 >/dev/null
    assert_eq "the page in a pod" "you are 10.6.0.1" "$(podman run --rm --pod pod busybox sh -c "$PAGE")"
    podman run --detach --pod pod busybox sh -c 'echo of the pod >/index.html; exec httpd -f -h /' >/dev/null
    wait_for "the pod's published port" 5 get_is "of the pod" 127.0.0.1 18060
    podman pod rm --force --time 0 pod >/dev/null
    wait_for "no process of ours to be left" 5 no_processes
    printf '%s\n' "FROM busybox" "RUN $PAGE | grep -q 'you are 10.6.0.1'" >"$W/Containerfile"
    buildah build --network pasta:--wg-config,work --file "$W/Containerfile" "$W" >"$W/build.log" 2>&1 || fail "buildah"
    wait_for "no process of ours to be left" 5 no_processes
    build --network pasta:--wg-config,work "FROM busybox" "RUN $PAGE | grep -q 'you are 10.6.0.1'"
    wait_for "no process of ours to be left" 5 no_processes
  else
    step "a build chooses a tunnel, as README has it for podman 4"
    WG4NETNS_CONFIG=work PATH=~/.local/share/wg4netns/libexec:$PATH build "FROM busybox" "RUN $PAGE | grep -q 'you are 10.6.0.1'"
    wait_for "no process of ours to be left" 5 no_processes
  fi

  step "with --config every container is in the tunnel, on the bridge and in a build, too"
  capture "$WG4NETNS" drop-ins install --config absent
  assert_status 3
  "$WG4NETNS" drop-ins install --config work >"$W/install.out"
  assert_eq "the page" "you are 10.6.0.1" "$(podman run --rm busybox sh -c "$PAGE")"
  capture podman run --rm --network inner busybox sh -c "ls /sys/class/net; $PAGE"; said
  assert_has "the page on the bridge" "you are 10.6.0.1" "$OUT"
  no_page "${PLAIN##* }" podman run --rm --network inner busybox
  bridged
  # By itself this build of podman 4 looks for slirp4netns on PATH alone, as `install` says.
  if [ "$ENGINE" = host ]; then
    assert_has "what install says" "else on the host's network" "$(cat "$W/install.out")"
    WG4NETNS_CONFIG=work build "FROM busybox" "RUN $PLAIN | grep -q 'you are 10.9.0.1'"
  fi
  [ "$ENGINE" = trixie ] || export PATH=$HOME/.local/share/wg4netns/libexec:$PATH
  build "FROM busybox" "RUN $PAGE | grep -q 'you are 10.6.0.1'"
  capture env WG4NETNS_CONFIG= podman run --rm busybox sh -c "$LINK"
  assert_eq "none, if the caller says so" 1 "$OUT"
  wait_for "no process of ours to be left" 5 no_processes

  step "with the program gone from where it was, containers are in the tunnel all the same, and upgrades are made by install"
  cp "$WG4NETNS" "$W/moving"
  "$W/moving" drop-ins install --config work >"$W/install.out"
  mv "$W/moving" "$W/moved"
  capture podman run --rm busybox sh -c "/bin/busybox timeout 5 $PAGE || $PLAIN"; said
  assert_eq "the page" "you are 10.6.0.1" "$OUT"
  wait_for "no process of ours to be left" 5 no_processes
  "$W/moved" drop-ins install --config work >"$W/install.out"
  assert_eq "the page" "you are 10.6.0.1" "$(podman run --rm busybox sh -c "$PAGE")"
  wait_for "no process of ours to be left" 5 no_processes

  step "removed, all is as before, and choosing fails"
  PATH=${PATH#"$HOME"/*libexec:}
  "$WG4NETNS" drop-ins remove >"$W/remove.out"
  files >"$W/files.after"
  assert_eq "files" "" "$(comm -13 "$W/files.before" "$W/files.after" | sed -E '/networks|cni/d')"
  capture podman run --rm busybox sh -c "$LINK"
  assert_eq "an Ethernet device" 1 "$OUT"
  capture podman run --rm --network "pasta:--wg-config,work" busybox echo ran; said
  [ "$STATUS" != 0 ] || fail "the container started"
  assert_lacks "what the container says" ran "$OUT"
}

# Containers that share one bridge, and with it one tunnel.
bridged() {
  local tunnel other each dns=()
  step "on the bridge: names, a published port, another container; one tunnel for all"
  podman run --detach --name bridged --network inner -p 127.0.0.1:18064:80 busybox \
    sh -c 'echo of the bridge >/index.html; exec httpd -f -h /' >/dev/null
  tunnel=$("$WG4NETNS" ls | awk 'NR == 2 { print $2 }')
  assert_seen "$tunnel"
  if [ "$ENGINE" = trixie ]; then
    assert_eq "--pid: the file that podman ends it by" "$tunnel" \
      "$(cat "$XDG_RUNTIME_DIR/containers/networks/rootless-netns/rootless-netns-conn.pid")"
  fi
  wait_for "the published port" 5 get_is "of the bridge" 127.0.0.1 18064
  # podman 4 here has no name server of its own on the bridge, and copies the host's resolv.conf.
  if [ "$ENGINE" = trixie ]; then other=bridged; else other=$(podman inspect -f '{{.NetworkSettings.Networks.inner.IPAddress}}' bridged) dns=(--dns 10.6.0.2); fi
  capture podman run --rm --network inner "${dns[@]}" busybox sh -c "cat /etc/resolv.conf; wget -qO- http://far.test/; echo; wget -qO- http://$other/"; said
  assert_status 0
  assert_has "a page by name, and one of the other container" $'you are 10.6.0.1\nof the bridge' "$OUT"
  assert_eq "tunnels" "$tunnel" "$("$WG4NETNS" ls | awk 'NR > 1 { print $2 }')"

  step "kill -9 of the bridge's helper leaves no network, and never the host's"
  kill -9 "$tunnel"; wait_for "the helper's end" 5 gone "$tunnel"
  for page in "${PAGE##* }" "${PLAIN##* }"; do no_page "$page" podman exec bridged; done
  if [ "$ENGINE" = trixie ]; then
    step "the next container on the bridge brings the tunnel back, to both"
    for each in "podman run --rm --network inner busybox" "podman exec bridged"; do
      # shellcheck disable=SC2086 # words
      assert_eq "the page by $each" "you are 10.6.0.1" "$($each sh -c "$PAGE")"
    done
  fi
  podman rm --force --time 0 bridged >/dev/null
  wait_for "no process of ours to be left" 5 no_processes
}

# The face is called as engines call it, with what arguments can be; a program that writes down its own is next on PATH.
untouched() {
  local arguments=(--config-net -t '127.0.0.1/8080-8080:80-80' '' 'a b' $'two\nlines' '*' "\"'\\" $'\xff\xfe' --netns /run/x --wg-configured)
  mkdir "$W/next"
  printf '%s\n' '#!/bin/sh' 'printf "%s\0" "$@" >"$RECORD"' 'exit 23' >"$W/next/$face"; chmod 755 "$W/next/$face"
  capture env RECORD="$W/arguments" PATH="$W/next:$PATH" ~/.local/share/wg4netns/libexec/$face "${arguments[@]}"
  assert_status 23
  printf '%s\0' "${arguments[@]}" | cmp - "$W/arguments" || fail "other arguments"
}

get_is() { # WANTED ADDRESS PORT
  [ "$(exec 7<>"/dev/tcp/$2/$3" && printf 'GET / HTTP/1.0\r\n\r\n' >&7 && timeout 2 tail -n 1 <&7)" = "$1" ]
}

build() { # [FLAG VALUE] LINE…
  local flags=()
  case $1 in --*) flags=("$1" "$2"); shift 2 ;; esac
  printf '%s\n' "$@" >"$W/Containerfile"
  podman build --no-cache "${flags[@]}" --file "$W/Containerfile" "$W" >"$W/build.log" 2>&1 || fail "podman build"
}
# Every file of the user that podman does not write itself.
files() { find ~/.config ~/.local/share \( -path '*/share/containers' -o -path '*/wg4netns/*.conf' \) -prune -o \( -type f -o -type l \) -print | sort; }
# What podman says of the programs it calls, but for those whose place we take.
helpers() { podman info | grep -E '^ *(path|networkBackend):' | grep -vi -E 'slirp4netns|pasta|passt|wg4netns'; }

in_engine
in_world "$@"
need tun wg wireguard-go socat dnsmasq nft engines buildah
peer_world
start_wireguard_go_peer
our_conf "$W/wg0.conf" "DNS = 10.6.0.2"
chmod 644 "$W/wg0.conf"
far_services
start plain on peer socat TCP-LISTEN:8080,fork,reuseaddr "SYSTEM:$W/page"
engine_canaries
in_engines
assert_engine_canaries_silent
