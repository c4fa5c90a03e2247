//! What happens to the interface while we use it: told by the rtnetlink socket the child passed. (tasks)
//!
//! # Theory of operation
//! Whoever is root in the target may change the interface at will. Nothing is asked of the interface by name from our
//! side; the kernel tells of each change on the passed socket, also from another namespace that the interface is moved
//! to (as long as our namespace knows that one by a number). When the kernel has lost something it says so, and
//! everything is read anew over a second socket; what cannot be read from another namespace is left as it was last heard.
//!
//! Changes can come faster than they can be handled, and without end. So nothing is queued: what is kept is the latest
//! state, which is compared with what was told last; a limited number of datagrams is read at a time; and all interfaces
//! are listed only so often.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;
use tracing::debug;

use super::clock;
use super::link_setup::ALIAS;
use crate::sys::async_fd::watch;
use crate::sys::netlink::{Event, LinkState, Netlink, NetlinkError, News, RtnetlinkSockets};
use crate::sys::os_error::OsError;
use crate::time::BootTime;

/// Datagrams taken before everybody else of the task has a turn: whoever is root in the target can send as many as we
/// can read.
const MAX_AT_ONCE: usize = 64;

/// Names of other interfaces that wait to be told; with more at once the rest is one too many anyway.
const MAX_OTHERS_UNTOLD: usize = 16;

/// Other interfaces known to be up, so that each is told of once.
const MAX_OTHERS_KNOWN: usize = 1024;

/// Least time between two lists of all interfaces. A list takes longer the more there are, so it also waits for twenty
/// times what the last one took.
const LIST_PAUSE: Duration = Duration::from_secs(1);

/// A change to the interface, or to what stands beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// Bytes.
    Mtu(u32),
    /// Administratively up or down.
    Up(bool),
    /// Its new name.
    Renamed(String),
    /// It is in another network namespace now.
    Moved,
    /// It does not exist any more; nothing follows.
    Deleted,
    /// Its addresses have changed.
    Addresses,
    /// Another interface has come up beside it: packets have another way out.
    OtherLinkUp(String),
}

/// The interface as it is, and the changes to it.
#[derive(Debug)]
pub struct LinkWatch {
    news: AsyncFd<News>,
    requests: Netlink,
    follower: Follower,
    /// No list before this.
    may_list: BootTime,
}

impl LinkWatch {
    /// Follows the interface `state` from the moment its child reported. Must be called within a tokio runtime with IO
    /// and time.
    ///
    /// # Errors
    /// [`NetlinkError::NotRtnetlink`]; [`NetlinkError::Open`] if tokio cannot watch it.
    pub fn new(sockets: RtnetlinkSockets, state: LinkState) -> Result<Self, NetlinkError> {
        let RtnetlinkSockets { requests, news } = sockets;
        let news = watch(News::adopt(news)?, Interest::READABLE)
            .map_err(|error| NetlinkError::Open { source: error.into() })?;
        let requests = Netlink::adopt(requests)?;
        Ok(Self { news, requests, follower: Follower::new(state), may_list: BootTime::default() })
    }

    /// As it was last heard.
    #[must_use]
    pub const fn state(&self) -> &LinkState {
        &self.follower.state
    }

    /// The socket to change addresses and routes with (as far as our user owns the namespace).
    pub const fn requests(&mut self) -> &mut Netlink {
        &mut self.requests
    }

    /// Waits for the next change. Loses nothing when it is dropped and called again.
    ///
    /// # Errors
    /// What the system says of the socket: it is of no use any more.
    pub async fn next(&mut self) -> Result<LinkChange, OsError> {
        loop {
            let more = self.hear()?;
            self.look();
            let list_in = self.list();
            if let Some(change) = self.follower.poll_change() {
                return Ok(change);
            }
            if more {
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                ready = self.news.readable() => ready.map_err(OsError::from)?.clear_ready(),
                () = sleep(list_in.unwrap_or_default()), if list_in.is_some() => {}
            }
        }
    }

    /// Takes what has been heard; whether there may be more.
    fn hear(&mut self) -> Result<bool, OsError> {
        let follower = &mut self.follower;
        for _ in 0..MAX_AT_ONCE {
            if !self.news.get_mut().hear(|event| follower.handle_event(event))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Asks how the interface is, if that was lost. One that cannot be asked now is left as it is; the TUN itself tells
    /// of its deletion, and the list that follows brings the rest.
    fn look(&mut self) {
        if std::mem::take(&mut self.follower.must_look) && self.follower.is_at_home() {
            match self.requests.link(self.follower.state.index) {
                Ok(link) => self.follower.handle_look(link),
                Err(error) => debug!(%error, "cannot look at the interface"),
            }
        }
    }

    /// Lists everything if that was lost and a list may be had; else how long until it may.
    fn list(&mut self) -> Option<Duration> {
        if !self.follower.must_list || !self.follower.is_at_home() {
            return None;
        }
        let begun = clock::now().boot;
        if begun < self.may_list {
            return Some(self.may_list.duration_since(begun));
        }
        let links = self.requests.links();
        let ended = clock::now().boot;
        let pause = LIST_PAUSE.max(ended.duration_since(begun) * 20);
        self.may_list = ended + pause;
        match links {
            Ok(links) => {
                self.follower.handle_list(links);
                None
            }
            Err(error) => {
                debug!(%error, "cannot list the interfaces");
                Some(pause)
            }
        }
    }
}

/// In which namespace the interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The socket's own (`None`), or one it knows by this number.
    Namespace(Option<i32>),
    /// Moved on from a foreign one: the next namespace that shows this index is the one.
    Unknown,
}

/// Turns events into changes; knows no socket.
#[derive(Debug)]
struct Follower {
    /// As it was last heard.
    state: LinkState,
    /// As it was last told.
    told: LinkState,
    place: Place,
    /// Something was lost: the interface must be looked at.
    must_look: bool,
    /// Something was lost: all interfaces must be listed.
    must_list: bool,
    moved: bool,
    addresses: bool,
    /// `Some(true)` once it has been told.
    deleted: Option<bool>,
    /// Indices of other interfaces that are up.
    others: BTreeSet<u32>,
    others_untold: VecDeque<String>,
}

impl Follower {
    fn new(state: LinkState) -> Self {
        Self {
            told: state.clone(),
            state,
            place: Place::Namespace(None),
            must_look: false,
            must_list: false,
            moved: false,
            addresses: false,
            deleted: None,
            others: BTreeSet::new(),
            others_untold: VecDeque::new(),
        }
    }

    /// Whether it is in the namespace that can be asked.
    fn is_at_home(&self) -> bool {
        self.place == Place::Namespace(None)
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Overrun => (self.must_look, self.must_list) = (true, true),
            Event::Link { link, nsid } if self.is_ours(link.index, nsid) => {
                self.place = Place::Namespace(nsid);
                self.state = link;
            }
            Event::Link { link, nsid: None } => self.handle_other(link),
            Event::Gone { index, nsid, moved } if self.is_ours(index, nsid) => match moved {
                None => self.delete(),
                Some((to, index)) => {
                    // The number is one of the namespace it left, which is ours only the first time.
                    let known = self.is_at_home() && to >= 0;
                    self.place = if known { Place::Namespace(Some(to)) } else { Place::Unknown };
                    self.state.index = index;
                    self.moved = true;
                }
            },
            Event::Gone { index, nsid: None, .. } => {
                self.others.remove(&index);
            }
            Event::Addresses { index } if self.is_at_home() && index == self.state.index => {
                self.addresses = true;
            }
            Event::Link { .. } | Event::Gone { .. } | Event::Addresses { .. } | Event::Routes => {}
        }
    }

    fn handle_look(&mut self, link: Option<LinkState>) {
        match link {
            Some(link) => self.state = link,
            None => self.delete(),
        }
    }

    fn handle_list(&mut self, links: Vec<LinkState>) {
        self.must_list = false;
        let up: BTreeSet<u32> = links.iter().filter(|link| link.up).map(|link| link.index).collect();
        self.others.retain(|index| up.contains(index));
        let (ours, others): (Vec<_>, Vec<_>) =
            links.into_iter().partition(|link| link.index == self.state.index);
        self.handle_look(ours.into_iter().next());
        for link in others {
            self.handle_other(link);
        }
    }

    fn handle_other(&mut self, link: LinkState) {
        if !link.up {
            self.others.remove(&link.index);
        } else if !link.loopback
            && link.alias.as_deref() != Some(ALIAS)
            && self.others.len() < MAX_OTHERS_KNOWN
            && self.others.insert(link.index)
            && self.others_untold.len() < MAX_OTHERS_UNTOLD
        {
            self.others_untold.push_back(link.name);
        }
    }

    fn is_ours(&self, index: u32, nsid: Option<i32>) -> bool {
        index == self.state.index && (self.place == Place::Unknown || self.place == Place::Namespace(nsid))
    }

    fn delete(&mut self) {
        self.deleted.get_or_insert(false);
    }

    /// What differs from what was told.
    fn poll_change(&mut self) -> Option<LinkChange> {
        let (state, told) = (&self.state, &mut self.told);
        if std::mem::take(&mut self.moved) {
            return Some(LinkChange::Moved);
        }
        if told.mtu != state.mtu {
            told.mtu = state.mtu;
            return Some(LinkChange::Mtu(state.mtu));
        }
        if told.up != state.up {
            told.up = state.up;
            return Some(LinkChange::Up(state.up));
        }
        if told.name != state.name {
            told.name.clone_from(&state.name);
            return Some(LinkChange::Renamed(state.name.clone()));
        }
        if std::mem::take(&mut self.addresses) {
            return Some(LinkChange::Addresses);
        }
        if let Some(name) = self.others_untold.pop_front() {
            return Some(LinkChange::OtherLinkUp(name));
        }
        if self.deleted == Some(false) {
            self.deleted = Some(true);
            return Some(LinkChange::Deleted);
        }
        None
    }
}

#[cfg(test)]
mod abuse_tests;

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, mtu: u32, up: bool) -> LinkState {
        LinkState { index, name: name.into(), mtu, up, loopback: false, alias: None }
    }

    fn changes(events: Vec<Event>) -> Vec<LinkChange> {
        let mut follower = Follower::new(link(2, "wg0", 1420, true));
        let mut changes = Vec::new();
        for event in events {
            follower.handle_event(event);
            changes.extend(std::iter::from_fn(|| follower.poll_change()));
        }
        changes
    }

    #[test]
    fn one_message_may_tell_of_several_changes() {
        let events = vec![Event::Link { link: link(2, "tun7", 1300, false), nsid: None }];
        let expected = [LinkChange::Mtu(1300), LinkChange::Up(false), LinkChange::Renamed("tun7".into())];
        assert_eq!(changes(events), expected);
    }

    #[test]
    fn the_same_index_in_another_namespace_is_another_interface() {
        let events = vec![
            Event::Link { link: link(2, "eth0", 9000, true), nsid: Some(4) },
            Event::Gone { index: 2, nsid: Some(4), moved: None },
        ];
        assert_eq!(changes(events), []);
    }

    #[test]
    fn a_moved_interface_is_followed_twice() {
        let events = vec![
            Event::Gone { index: 2, nsid: None, moved: Some((4, 9)) },
            Event::Link { link: link(9, "wg0", 1400, true), nsid: Some(4) },
            Event::Link { link: link(2, "eth0", 1500, false), nsid: None },
            Event::Gone { index: 9, nsid: Some(4), moved: Some((0, 11)) },
            Event::Link { link: link(11, "wg0", 1380, true), nsid: Some(5) },
            Event::Gone { index: 11, nsid: Some(5), moved: None },
        ];
        let expected = [
            LinkChange::Moved,
            LinkChange::Mtu(1400),
            LinkChange::Moved,
            LinkChange::Mtu(1380),
            LinkChange::Deleted,
        ];
        assert_eq!(changes(events), expected);
    }

    #[test]
    fn another_interface_that_comes_up_is_told_of_and_a_second_tunnel_is_not() {
        let mut second = link(3, "wg1", 1420, true);
        second.alias = Some(ALIAS.into());
        let events = vec![
            Event::Link { link: second, nsid: None },
            Event::Link { link: link(4, "eth0", 1500, true), nsid: None },
        ];
        assert_eq!(changes(events), [LinkChange::OtherLinkUp("eth0".into())]);
    }

    #[test]
    fn after_a_loss_the_list_decides_and_tells_of_other_interfaces() {
        let mut follower = Follower::new(link(2, "wg0", 1420, true));
        follower.handle_event(Event::Link { link: link(4, "eth0", 1500, true), nsid: None });
        follower.handle_event(Event::Overrun);
        assert!(follower.must_look && follower.must_list);
        follower.handle_look(Some(link(2, "wg0", 1280, true)));
        let lo = LinkState { loopback: true, ..link(1, "lo", 65_536, true) };
        let [eth0, eth1] = [link(4, "eth0", 1500, true), link(5, "eth1", 1500, true)];
        follower.handle_list(vec![lo, link(2, "wg0", 1280, true), eth0, eth1]);
        assert!(!follower.must_list);
        follower.handle_list(vec![]);
        follower.handle_look(None);
        let expected = [
            LinkChange::Mtu(1280),
            LinkChange::OtherLinkUp("eth0".into()),
            LinkChange::OtherLinkUp("eth1".into()),
            LinkChange::Deleted,
        ];
        assert_eq!(Vec::from_iter(std::iter::from_fn(|| follower.poll_change())), expected);
    }

    /// One entry a change was kept, and root in the target can make them faster than they are read.
    #[test]
    fn changes_without_end_take_no_more_room_than_a_few() {
        let mut follower = Follower::new(link(2, "wg0", 1420, true));
        for number in 0..100_000 {
            let mtu = 1280 + number % 100;
            follower.handle_event(Event::Link { link: link(2, "wg0", mtu, number % 2 == 0), nsid: None });
            follower.handle_event(Event::Link { link: link(10 + number, "eth0", 1500, true), nsid: None });
            follower.handle_event(Event::Addresses { index: 2 });
        }
        assert_eq!(follower.others.len(), MAX_OTHERS_KNOWN);
        let changes = Vec::from_iter(std::iter::from_fn(|| follower.poll_change()));
        assert_eq!(changes.len(), 3 + MAX_OTHERS_UNTOLD, "{changes:?}");
        assert_eq!(changes[..2], [LinkChange::Mtu(1379), LinkChange::Up(false)]);
    }
}
