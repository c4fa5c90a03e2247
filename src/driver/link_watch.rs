//! What happens to the interface while we use it: told by the rtnetlink socket the child passed. (tasks)
//!
//! # Theory of operation
//! Whoever is root in the target may change the interface at will. Nothing is asked of the interface by name from our
//! side; the kernel tells of each change on the passed socket, also from another namespace that the interface is moved
//! to (as long as our namespace knows that one by a number). When the kernel has lost something it says so, and
//! everything is read anew; what cannot be read from another namespace is left as it was last heard.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::link_setup::ALIAS;
use crate::sys::async_fd::watch;
use crate::sys::netlink::{Event, LinkState, Netlink, NetlinkError};
use crate::sys::os_error::OsError;

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
    netlink: AsyncFd<Netlink>,
    follower: Follower,
}

impl LinkWatch {
    /// Follows the interface `state` from the moment its child reported. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`NetlinkError::NotRtnetlink`]; [`NetlinkError::Open`] if tokio cannot watch it.
    pub fn new(rtnetlink: OwnedFd, state: LinkState) -> Result<Self, NetlinkError> {
        let netlink = Netlink::adopt(rtnetlink)?;
        let netlink = watch(netlink, Interest::READABLE)
            .map_err(|error| NetlinkError::Open { source: error.into() })?;
        Ok(Self { netlink, follower: Follower::new(state) })
    }

    /// As it was last heard.
    #[must_use]
    pub const fn state(&self) -> &LinkState {
        &self.follower.state
    }

    /// The socket, to change addresses and routes with (as far as our user owns the namespace). Changes that are heard
    /// meanwhile are not lost.
    pub fn netlink(&mut self) -> &mut Netlink {
        self.netlink.get_mut()
    }

    /// Waits for the next change. Loses nothing when it is dropped and called again.
    ///
    /// # Errors
    /// What the system says of the socket: it is of no use any more.
    pub async fn next(&mut self) -> Result<LinkChange, OsError> {
        loop {
            self.hear_everything()?;
            if let Some(change) = self.follower.changes.pop_front() {
                return Ok(change);
            }
            let mut guard = self.netlink.readable_mut().await.map_err(OsError::from)?;
            match guard.get_inner_mut().next_event()? {
                Some(event) => self.follower.handle_event(event),
                None => guard.clear_ready(),
            }
        }
    }

    fn hear_everything(&mut self) -> Result<(), OsError> {
        while let Some(event) = self.netlink.get_mut().next_event()? {
            self.follower.handle_event(event);
        }
        if std::mem::take(&mut self.follower.must_list) && self.follower.place == Place::Namespace(None) {
            // A list that cannot be had now leaves things as they are; the TUN itself tells of its deletion.
            if let Ok(link) = self.netlink.get_mut().link(self.follower.state.index) {
                self.follower.handle_listing(link);
            }
        }
        Ok(())
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
    state: LinkState,
    place: Place,
    must_list: bool,
    deleted: bool,
    changes: VecDeque<LinkChange>,
}

impl Follower {
    const fn new(state: LinkState) -> Self {
        Self {
            state,
            place: Place::Namespace(None),
            must_list: false,
            deleted: false,
            changes: VecDeque::new(),
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Overrun => self.must_list = true,
            Event::Link { link, nsid } if self.is_ours(link.index, nsid) => {
                self.place = Place::Namespace(nsid);
                self.compare(link);
            }
            Event::Link { link, nsid: None } => {
                if link.up && !link.loopback && link.alias.as_deref() != Some(ALIAS) {
                    let change = LinkChange::OtherLinkUp(link.name);
                    if !self.changes.contains(&change) {
                        self.changes.push_back(change);
                    }
                }
            }
            Event::Gone { index, nsid, moved } if self.is_ours(index, nsid) => match moved {
                None => self.delete(),
                Some((to, index)) => {
                    // The number is one of the namespace it left, which is ours only the first time.
                    let known = self.place == Place::Namespace(None) && to >= 0;
                    self.place = if known { Place::Namespace(Some(to)) } else { Place::Unknown };
                    self.state.index = index;
                    self.changes.push_back(LinkChange::Moved);
                }
            },
            Event::Addresses { index }
                if self.place == Place::Namespace(None) && index == self.state.index =>
            {
                if self.changes.back() != Some(&LinkChange::Addresses) {
                    self.changes.push_back(LinkChange::Addresses);
                }
            }
            Event::Link { .. } | Event::Gone { .. } | Event::Addresses { .. } => {}
        }
    }

    fn handle_listing(&mut self, link: Option<LinkState>) {
        match link {
            Some(link) => self.compare(link),
            None => self.delete(),
        }
    }

    fn is_ours(&self, index: u32, nsid: Option<i32>) -> bool {
        index == self.state.index && (self.place == Place::Unknown || self.place == Place::Namespace(nsid))
    }

    fn compare(&mut self, new: LinkState) {
        if new.mtu != self.state.mtu {
            self.changes.push_back(LinkChange::Mtu(new.mtu));
        }
        if new.up != self.state.up {
            self.changes.push_back(LinkChange::Up(new.up));
        }
        if new.name != self.state.name {
            self.changes.push_back(LinkChange::Renamed(new.name.clone()));
        }
        self.state = new;
    }

    fn delete(&mut self) {
        if !std::mem::replace(&mut self.deleted, true) {
            self.changes.push_back(LinkChange::Deleted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, mtu: u32, up: bool) -> LinkState {
        LinkState { index, name: name.into(), mtu, up, loopback: false, alias: None }
    }

    fn changes(events: Vec<Event>) -> Vec<LinkChange> {
        let mut follower = Follower::new(link(2, "wg0", 1420, true));
        for event in events {
            follower.handle_event(event);
        }
        follower.changes.into()
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
    fn after_a_loss_the_list_decides() {
        let mut follower = Follower::new(link(2, "wg0", 1420, true));
        follower.handle_event(Event::Overrun);
        assert!(follower.must_list);
        follower.handle_listing(Some(link(2, "wg0", 1280, true)));
        follower.handle_listing(None);
        follower.handle_listing(None);
        assert_eq!(Vec::from(follower.changes), [LinkChange::Mtu(1280), LinkChange::Deleted]);
    }
}
