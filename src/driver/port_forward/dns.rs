//! The DNS alias: a question that comes on one address inside is asked elsewhere, by sockets made inside. (tasks)
//!
//! # Theory of operation
//! Each question gets a socket of its own, and so a source port of its own, and is put to one server after the other
//! until one answers. An answer is the first datagram from that server with the question's number and the question
//! itself: a port that is used again may be reached by what was meant for the one before. It is passed on as
//! it is, also when it is truncated: the client then asks again over TCP, which is forwarded like any connection. If no
//! server answers the client is told so (SERVFAIL), which is faster for it than silence. No resolver of the host ever
//! hears of it.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::process::{Association, Candidates, Counters, HEARS, Shared};
use super::udp::Place;
use crate::sys::sockets::{self, Arrived};

/// Questions at a time, of all addresses of the alias together: each costs a descriptor. Further ones wait in the kernel, or
/// are lost, as datagrams are.
pub(super) const MAX_QUESTIONS: usize = 256;

/// How long one server may think about it.
const PATIENCE: Duration = Duration::from_millis(1500);

/// How often each is asked: a datagram may get lost.
const ROUNDS: usize = 2;

/// Bytes before the question (RFC 1035, section 4.1.1).
const HEADER: usize = 12;

/// Answers until it is aborted.
pub(super) async fn serve(
    shared: Rc<Shared>,
    listener: AsyncFd<OwnedFd>,
    servers: Rc<[SocketAddr]>,
    counters: Rc<Counters>,
) {
    let listener = Rc::new(listener);
    let mut questions = JoinSet::new();
    // Whoever is not asked must not keep others from answering.
    let next = || async {
        let ready = listener.readable().await;
        (ready, Arc::clone(&shared.questions).acquire_owned().await)
    };
    loop {
        tokio::select! {
            Some(_answered) = questions.join_next() => {}
            (ready, slot) = next() => {
                let (Ok(mut guard), Ok(slot)) = (ready, slot) else { return };
                let arrived = {
                    let buffer = &mut *shared.buffer.borrow_mut();
                    sockets::receive(listener.as_fd(), buffer).map(|Arrived { len, from, .. }| (buffer[..len].to_vec(), from))
                };
                match arrived {
                    Ok((question, client)) if question.len() >= HEADER => {
                        let (shared, listener, servers, counters) =
                            (Rc::clone(&shared), Rc::clone(&listener), Rc::clone(&servers), Rc::clone(&counters));
                        questions.spawn_local(async move {
                            let _open = counters.open();
                            let (_place, _slot) = (Place::take(&shared), slot);
                            let answer = match ask(&shared, &question, &servers).await {
                                Some(answer) => answer,
                                None => {
                                    counters.fail();
                                    server_failure(question)
                                }
                            };
                            // A client that has gone needs no answer.
                            let _lost = sockets::send(listener.as_fd(), &answer, client, None);
                        });
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => guard.clear_ready(),
                    Ok(_) | Err(_) => {}
                }
            }
        }
    }
}

/// The first answer of any server.
async fn ask(shared: &Shared, question: &[u8], servers: &[SocketAddr]) -> Option<Vec<u8>> {
    for server in servers.iter().cycle().take(servers.len() * ROUNDS) {
        let mut one = Candidates { addresses: [*server].into(), inside: true };
        let Ok(Association { socket, to }) = shared.associate(&mut one).await else { continue };
        if sockets::send(socket.as_fd(), question, to, None).is_err() {
            continue;
        }
        if let Ok(Some(answer)) = timeout(PATIENCE, answer_of(shared, &socket, question)).await {
            return Some(answer);
        }
    }
    None
}

/// The answer to this question; `None` if the server refuses to hear it.
async fn answer_of(shared: &Shared, socket: &AsyncFd<OwnedFd>, question: &[u8]) -> Option<Vec<u8>> {
    loop {
        let mut guard = socket.ready(HEARS).await.ok()?;
        let buffer = &mut *shared.buffer.borrow_mut();
        match sockets::receive(socket.as_fd(), buffer) {
            Ok(Arrived { len, .. }) if answers(&buffer[..len], question) => {
                return Some(buffer[..len].to_vec());
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => guard.clear_ready(),
            Ok(_) => {}
            Err(_refused) => return None,
        }
    }
}

/// Whether a message is the answer to this question (RFC 5452, section 9.1).
fn answers(message: &[u8], question: &[u8]) -> bool {
    let (Some(header), Some(asked)) = (message.get(..HEADER), question.get(..HEADER)) else { return false };
    let (is_answer, failed) = (header[2] & 0x80 != 0, header[3] & 0x0f != 0);
    if header[..2] != asked[..2] || !is_answer {
        return false;
    }
    match (entry(question), entry(message)) {
        (Some((name, class)), Some((its_name, its_class))) => {
            name.eq_ignore_ascii_case(its_name) && class == its_class
        }
        // A server that did not understand the question does not repeat it.
        (Some(_), None) => failed && message[4..6] == [0, 0],
        // Not one question, or none that can be read: the number is all there is.
        (None, _) => true,
    }
}

/// The name that a message asks for, and type and class of it; if it asks for one.
fn entry(message: &[u8]) -> Option<(&[u8], &[u8])> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let mut end = HEADER;
    loop {
        match usize::from(*message.get(end)?) {
            0 => break,
            // A question has nothing before it to refer to.
            len @ 1..64 => end += 1 + len,
            64.. => return None,
        }
    }
    Some((message.get(HEADER..end)?, message.get(end + 1..end + 5)?))
}

/// What a server says that cannot find out: the question, marked as an answer with RCODE 2.
fn server_failure(mut question: Vec<u8>) -> Vec<u8> {
    if let [_, _, flags, codes, ..] = &mut question[..] {
        *flags |= 0x80;
        *codes = (*codes & 0x70) | 0x82;
    }
    question
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One question for type A, or an answer to it.
    fn message(number: u8, flags: [u8; 2], name: &[u8]) -> Vec<u8> {
        let mut message = vec![0, number, flags[0], flags[1], 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend_from_slice(name);
        message.extend_from_slice(&[0, 0, 1, 0, 1]);
        message
    }

    const ANSWER: [u8; 2] = [0x81, 0x80];

    /// With the number of a question from before, and the port, its late answer was given to somebody else.
    #[test]
    fn an_answer_to_another_question_of_the_same_number_is_none() {
        let question = message(7, [1, 0], b"\x06second\x04test");
        assert!(answers(&message(7, ANSWER, b"\x06second\x04test"), &question));
        assert!(answers(&message(7, ANSWER, b"\x06SeCond\x04tEst"), &question), "as servers may write it");
        assert!(!answers(&message(8, ANSWER, b"\x06second\x04test"), &question), "another number");
        assert!(!answers(&message(7, ANSWER, b"\x05first\x04test"), &question), "another name");
        assert!(!answers(&message(7, ANSWER, b"\x06second"), &question), "half of the name");
        assert!(!answers(&question, &question), "the question itself");
        let mut other_type = message(7, ANSWER, b"\x06second\x04test");
        let last = other_type.len() - 3;
        other_type[last] = 28;
        assert!(!answers(&other_type, &question), "another type");
    }

    #[test]
    fn a_server_that_understands_nothing_may_leave_the_question_out() {
        let question = message(7, [1, 0], b"\x01a");
        assert!(answers(&[0, 7, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0], &question), "format error");
        assert!(
            !answers(&[0, 7, 0x81, 0x80, 0, 0, 0, 0, 0, 0, 0, 0], &question),
            "no error, and no question"
        );
        // No question that could be compared: cut off, compressed, two of them.
        for odd in [&b"\x3fa"[..], b"\xc0\x0c", b"\x01"] {
            let mut odd = message(7, [1, 0], odd);
            odd.truncate(HEADER + 2);
            assert!(answers(&message(7, ANSWER, b"\x01a"), &odd));
            assert!(!answers(&message(8, ANSWER, b"\x01a"), &odd));
        }
        for len in 0..HEADER {
            assert!(!answers(&message(7, ANSWER, b"\x01a")[..len], &question));
        }
    }

    #[test]
    fn a_failure_repeats_the_question_and_its_number() {
        // Recursion desired, one question.
        let mut question = vec![0xab, 0xcd, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
        question.extend_from_slice(b"\x01a\x00\x00\x01\x00\x01");
        let failure = server_failure(question.clone());
        assert_eq!(&failure[..4], &[0xab, 0xcd, 0x81, 0x82]);
        assert_eq!(failure[4..], question[4..]);
    }
}
