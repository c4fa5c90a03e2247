//! Changes of the device's configuration, each made whole. (core: no IO, no clock)

use std::collections::HashSet;
use std::sync::Arc;

use super::allowed_ips::AllowedIps;
use super::control_peer::ControlPeer;
use super::cookie::CookieChecker;
use super::data_plane::Routes;
use super::device::{Device, DeviceEvent, MAX_PEERS, TooManyPeers};
use super::handshake::Identity;
use super::timers::Timer;
use crate::config::device::{AllowedIpChange, DeviceUpdate, PeerUpdate};
use crate::key::{PrivateKey, PublicKey};
use crate::packet::batch::Path;
use crate::time::Now;

/// What a change of one peer asks for once everything is changed.
#[derive(Clone, Copy)]
struct Touched {
    id: u32,
    endpoint_changed: bool,
    keepalive_began: bool,
}

impl Device {
    /// Changes the device, whole or not at all. Port and firewall mark are only recorded: the driver binds first.
    ///
    /// # Errors
    /// More peers than [`MAX_PEERS`]; nothing is changed then.
    pub fn apply(&mut self, update: DeviceUpdate, now: Now) -> Result<(), TooManyPeers> {
        if self.peers_after(&update) > MAX_PEERS {
            return Err(TooManyPeers { limit: MAX_PEERS });
        }
        let mut routes = RouteChanges { before: self.data_plane.routes.load_full(), table: None };
        if let Some(private_key) = update.private_key {
            // Peers that are all made anew call if their own settings say so.
            let calls = !update.replace_peers;
            self.set_private_key(private_key, calls, &mut routes, now);
        }
        if let Some(port) = update.listen_port {
            self.listen_port = port;
        }
        if let Some(fwmark) = update.fwmark {
            self.fwmark = fwmark;
        }
        let mut replaced = HashSet::new();
        if update.replace_peers {
            let named: HashSet<_> = update.peers.iter().map(|peer| peer.public_key).collect();
            let before = self.peers.iter().flatten().map(|peer| (peer.shared.id, peer.shared.public_key));
            let (kept, gone): (Vec<_>, Vec<_>) = before.partition(|(_, key)| named.contains(key));
            for (id, _) in gone {
                self.remove_peer(id, &mut routes);
            }
            replaced.extend(kept.into_iter().map(|(_, key)| key));
        }
        let mut touched = Vec::with_capacity(update.peers.len());
        for mut peer in update.peers {
            if replaced.remove(&peer.public_key) {
                self.make_anew(&mut peer, &mut routes, now);
            }
            touched.extend(self.update_peer(peer, &mut routes, now));
        }
        if let Some(table) = routes.table {
            let peers = self.peers.iter().map(|peer| peer.as_ref().map(|peer| Arc::clone(&peer.shared)));
            let routes = Routes { table, peers: peers.collect() };
            self.data_plane.routes.store(Arc::new(routes));
        }
        for touched in touched {
            self.start(touched, now);
        }
        Ok(())
    }

    /// How many peers there would be.
    fn peers_after(&self, update: &DeviceUpdate) -> usize {
        // Far below the limit there is nothing to count.
        if self.by_key.len() + update.peers.len() <= MAX_PEERS {
            return 0;
        }
        let mut keys: HashSet<PublicKey> = match update.replace_peers {
            true => HashSet::new(),
            false => self.by_key.keys().copied().collect(),
        };
        for peer in &update.peers {
            if peer.remove {
                keys.remove(&peer.public_key);
            } else if !peer.update_only {
                keys.insert(peer.public_key);
            }
        }
        keys.len()
    }

    fn set_private_key(
        &mut self,
        private_key: Option<PrivateKey>,
        calls: bool,
        routes: &mut RouteChanges,
        now: Now,
    ) {
        if self.identity.as_ref().map(|identity| &identity.private) == private_key.as_ref() {
            return;
        }
        self.identity = private_key.map(Identity::new);
        let entropy = &mut *self.entropy;
        self.cookie_checker =
            self.identity.as_ref().map(|identity| CookieChecker::new(&identity.public, entropy));
        let own = self.identity.as_ref().and_then(|identity| self.by_key.get(&identity.public).copied());
        if let Some(own) = own {
            self.remove_peer(own, routes);
        }
        let ids: Vec<_> = self.peers.iter().flatten().map(|peer| peer.shared.id).collect();
        for id in ids {
            self.expire_sessions(id, calls, now);
        }
    }

    /// Our identity has changed: what was agreed under the old one is not used to send any more.
    fn expire_sessions(&mut self, id: u32, calls: bool, now: Now) {
        let has_identity = self.identity.is_some();
        let Some(peer) = self.peer(id) else { return };
        let was_alive = peer.has_session(now.boot) || peer.pending.is_some();
        peer.forget_static_static();
        peer.last_handshake_sent = None;
        peer.series = None;
        if !has_identity {
            self.forget_pending(id);
            self.zero_keys(id);
        } else {
            // What is in flight towards us may still arrive under the old sessions.
            peer.shared.tx.store(None);
            let next = peer.keypairs.next.take();
            let current = peer.keypairs.current.take();
            let before = std::mem::replace(&mut peer.keypairs.previous, current);
            self.retire([next, before]);
            self.forget_pending(id);
            let wanted = self
                .peer(id)
                .is_some_and(|peer| was_alive || peer.persistent_keepalive != 0 || peer.shared.has_staged());
            if calls && wanted {
                self.want_handshake(id, now);
            }
        }
        self.reschedule(id);
    }

    /// The first mention of a peer in a request that replaces all: makes it what it would be if it had been removed
    /// and added again, as the kernel does it. What the request does not say is then off.
    ///
    /// Only what was proven by cryptography outlives it: the latest timestamp always (an old initiation must stay
    /// refused), and, while the preshared key stays the same, a usable session with the endpoint it runs over. So
    /// the same file given twice interrupts nobody, and a hub does not lose clients whose endpoints only they tell.
    fn make_anew(&mut self, update: &mut PeerUpdate, routes: &mut RouteChanges, now: Now) {
        let Some(&id) = self.by_key.get(&update.public_key) else { return };
        if update.remove || update.update_only {
            // It is not there any more, so there is nothing to update.
            self.remove_peer(id, routes);
            return;
        }
        update.preshared_key.get_or_insert(None);
        update.persistent_keepalive.get_or_insert(0);
        update.replace_allowed_ips = true;
        let Some(peer) = self.peer(id) else { return };
        let same_secret = update.preshared_key.as_ref() == Some(&peer.preshared_key);
        if same_secret && peer.has_session(now.boot) {
            return;
        }
        let greatest_timestamp = peer.greatest_timestamp;
        self.forget_peer(id, routes);
        let id = self.add_peer(update.public_key, routes);
        let Some(peer) = self.peer(id) else { return };
        peer.greatest_timestamp = greatest_timestamp;
    }

    fn update_peer(&mut self, update: PeerUpdate, routes: &mut RouteChanges, now: Now) -> Option<Touched> {
        if self.identity.as_ref().is_some_and(|identity| identity.public == update.public_key) {
            return None;
        }
        let known = self.by_key.get(&update.public_key).copied();
        if update.remove {
            if let Some(id) = known {
                self.remove_peer(id, routes);
            }
            return None;
        }
        let id = match known {
            Some(id) => id,
            None if update.update_only => return None,
            None => self.add_peer(update.public_key, routes),
        };
        let peer = self.peer(id)?;
        if let Some(preshared_key) = update.preshared_key {
            peer.preshared_key = preshared_key;
        }
        let mut touched = Touched { id, endpoint_changed: false, keepalive_began: false };
        if let Some(interval) = update.persistent_keepalive {
            touched.keepalive_began = interval != 0 && peer.persistent_keepalive == 0;
            peer.persistent_keepalive = interval;
            match interval {
                0 => peer.timers.clear(Timer::PersistentKeepalive),
                // It looks by itself when it is really due.
                _ => peer.timers.set(Timer::PersistentKeepalive, now.boot),
            }
        }
        if let Some(endpoint) = update.endpoint {
            touched.endpoint_changed = peer.known_remote != Some(endpoint);
            peer.shared.set_path(Some(Path::to(endpoint)));
            let before = peer.known_remote.replace(endpoint);
            self.move_endpoint(id, before, endpoint);
        }
        if update.replace_allowed_ips {
            self.remove_allowed_ips(id, routes);
        }
        for change in update.allowed_ips {
            self.change_allowed_ip(id, change, routes);
        }
        Some(touched)
    }

    fn add_peer(&mut self, public_key: PublicKey, routes: &mut RouteChanges) -> u32 {
        routes.table();
        let id = self.vacant.pop().unwrap_or_else(|| {
            self.peers.push(None);
            u32::try_from(self.peers.len() - 1).expect("there are at most MAX_PEERS")
        });
        let peer = ControlPeer::new(id, self.next_sequence, public_key);
        self.next_sequence += 1;
        self.peers[id as usize] = Some(peer);
        self.by_key.insert(public_key, id);
        id
    }

    fn remove_peer(&mut self, id: u32, routes: &mut RouteChanges) {
        if let Some(peer) = self.forget_peer(id, routes) {
            self.tell(DeviceEvent::PeerRemoved { peer });
        }
    }

    /// Removes a peer without telling; who it was.
    fn forget_peer(&mut self, id: u32, routes: &mut RouteChanges) -> Option<PublicKey> {
        self.forget_pending(id);
        self.zero_keys(id);
        self.remove_allowed_ips(id, routes);
        let mut peer = self.peers[id as usize].take()?;
        routes.table();
        self.schedule.reschedule(id, peer.scheduled.take(), None);
        self.vacant.push(id);
        self.by_key.remove(&peer.shared.public_key);
        if let Some(endpoint) = peer.known_remote
            && self.by_endpoint.get(&endpoint) == Some(&id)
        {
            self.by_endpoint.remove(&endpoint);
        }
        self.data_plane.close_staged(&peer.shared);
        Some(peer.shared.public_key)
    }

    fn remove_allowed_ips(&mut self, id: u32, routes: &mut RouteChanges) {
        let Some(peer) = self.peer(id) else { return };
        for prefix in std::mem::take(&mut peer.allowed_ips) {
            routes.table().remove(prefix, id);
        }
    }

    fn change_allowed_ip(&mut self, id: u32, change: AllowedIpChange, routes: &mut RouteChanges) {
        match change {
            AllowedIpChange::Add(prefix) => {
                let prefix = prefix.trunc();
                if let Some(owner) = routes.table().insert(prefix, id).and_then(|owner| self.peer(owner)) {
                    owner.allowed_ips.remove(&prefix);
                }
                if let Some(peer) = self.peer(id) {
                    peer.allowed_ips.insert(prefix);
                }
            }
            AllowedIpChange::Remove(prefix) => {
                let prefix = prefix.trunc();
                routes.table().remove(prefix, id);
                if let Some(peer) = self.peer(id) {
                    peer.allowed_ips.remove(&prefix);
                }
            }
        }
    }

    /// Sends what a change of a peer makes due.
    fn start(&mut self, touched: Touched, now: Now) {
        let Touched { id, endpoint_changed, keepalive_began } = touched;
        let Some(peer) = self.peer(id) else { return };
        let waits = peer.shared.has_staged() && !peer.has_session(now.boot);
        if endpoint_changed && (peer.pending.is_some() || waits) {
            // The initiation before went to the wrong place.
            peer.last_handshake_sent = None;
            self.forget_pending(id);
            self.want_handshake(id, now);
        } else if keepalive_began {
            self.send_keepalive(id, now);
        } else if waits || endpoint_changed && peer.persistent_keepalive != 0 && !peer.has_session(now.boot) {
            // A tunnel that is to be kept alive does not wait for its first interval once it can begin.
            self.want_handshake(id, now);
        }
        self.reschedule(id);
    }
}

/// The routes while they are being changed; copied at the first change of routes or peers, published once, at the
/// end.
struct RouteChanges {
    before: Arc<Routes>,
    table: Option<AllowedIps>,
}

impl RouteChanges {
    fn table(&mut self) -> &mut AllowedIps {
        self.table.get_or_insert_with(|| self.before.table.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::crypto::SystemEntropy;
    use crate::packet::batch::{DatagramBatch, PacketBatch, VNET_HEADER_LEN};
    use crate::time::{BootTime, WallTime};
    use crate::wireguard::{DataPlane, TX_SLAB_LEN, TxPath};

    const NOW: Now = Now { boot: BootTime::from_nanos(1 << 40), wall: WallTime { secs: 1 << 30, nanos: 0 } };

    /// Packets for 10.0.0.2, as fast as they can be staged.
    fn send(data_plane: Arc<DataPlane>, stop: &AtomicBool) {
        let mut packet = vec![0; VNET_HEADER_LEN];
        packet.extend([0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let mut packets = PacketBatch::with_capacity(64 * packet.len(), 64);
        for _ in 0..64 {
            packets.spare()[..packet.len()].copy_from_slice(&packet);
            packets.commit(packet.len());
        }
        let mut tx = TxPath::new(data_plane);
        let mut out = DatagramBatch::with_capacity(TX_SLAB_LEN, 64);
        let mut replies = PacketBatch::with_capacity(0, 0);
        while !stop.load(Ordering::Relaxed) {
            out.clear();
            tx.handle_packets(&packets, NOW, &mut out, &mut replies);
        }
    }

    #[test]
    fn removing_peers_under_traffic_gives_back_all_that_their_packets_took() {
        let mut device = Device::new(Box::new(SystemEntropy::new()));
        let data_plane = Arc::clone(device.data_plane());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| send(Arc::clone(&data_plane), &stop));
            for _ in 0..1000 {
                let mut peer = PeerUpdate::new(PublicKey::from_bytes([9; 32]));
                peer.endpoint = Some((std::net::Ipv4Addr::LOCALHOST, 9).into());
                peer.allowed_ips = vec![AllowedIpChange::Add("10.0.0.2/32".parse().unwrap())];
                let remove = PeerUpdate { remove: true, ..peer.clone() };
                let update = |peer| DeviceUpdate { peers: vec![peer], ..DeviceUpdate::default() };
                device.apply(update(peer), NOW).unwrap();
                // The sender stages something before the peer goes; bounded, for it may lie asleep.
                for _ in 0..1000 {
                    std::thread::yield_now();
                    if data_plane.staged_bytes() != 0 {
                        break;
                    }
                }
                device.apply(update(remove), NOW).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(data_plane.staged_bytes(), 0);
    }
}
