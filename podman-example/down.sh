#!/bin/sh
# Takes back what up.sh did: the container, its unit, the configuration, and the peer if one was started.
set -eu
name=wg4netns-example
run=${XDG_RUNTIME_DIR:?a rootless podman needs it}/wg4netns
configs=${XDG_CONFIG_HOME:-$HOME/.config}

if [ -e "$configs/containers/systemd/$name.container" ]; then
  systemctl --user stop "$name.service" || true
  rm "$configs/containers/systemd/$name.container"
  systemctl --user daemon-reload
  # One that could not start stays known otherwise.
  systemctl --user reset-failed "$name.service" 2>/dev/null || true
fi
podman rm --force --time 0 --ignore "$name" >/dev/null
if [ -e "$run/example-peer.pid" ]; then
  # After a reboot the number may be somebody else's.
  peer=$(cat "$run/example-peer.pid")
  case $(tr '\0' ' ' <"/proc/$peer/cmdline" 2>/dev/null || true) in
    *" demo --peer --config-out $configs/wg4netns/example.conf "*) kill "$peer" ;;
  esac
fi
rm -rf "$run/example.hooks.d" "$run/example-peer.pid" "$run/example-peer.log" "$configs/wg4netns/example.conf"
