//! What processes that share a cache do to each other, in every order and with a crash at every
//! step, by docs/CACHE_FORMAT.md: an explicit-state model of claiming, landing, sealing, evicting
//! and completing what a crash interrupted. It has none of the cache's code, and so no limit to
//! the orders that it can try; `shuttle.rs` runs the code, in some orders.
//!
//! What must hold in every state: bytes are served only where they are, at most one live process
//! fetches a range, nothing that is open is evicted, nobody waits for ever; and in every end: no
//! space is lost to those who count it.
//!
//! `PROTOCOL_CRASHES=1` (millions of states, best with `--release`), `PROTOCOL_USERS` and
//! `PROTOCOL_EVICTIONS` make the largest of the worlds larger.
#![allow(missing_docs, unreachable_pub)]

mod disk;
mod evictor;
mod user;

use std::collections::{HashSet, VecDeque};

use disk::{Disk, Id, Pid};
use evictor::{Evictor, Order};
use user::User;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    disk: Disk,
    users: Vec<User>,
    evictor: Evictor,
    crashes: u8,
}

/// What leads from one state to the next.
#[derive(Debug, Clone, Copy)]
#[allow(dead_code, reason = "shown when a promise is broken")]
enum Move {
    User(Pid),
    Evictor { of_blob: bool },
    UserDies(Pid),
    EvictorDies,
}

/// States explored, or how a promise came to be broken.
type Explored = Result<usize, (String, Vec<String>)>;

impl State {
    fn new(users: usize, evictions: u8, crashes: u8, order: Order) -> State {
        State {
            disk: Disk::default(),
            users: vec![User::new(); users],
            evictor: Evictor::new(evictions, order),
            crashes,
        }
    }

    fn evictor_pid(&self) -> Pid {
        self.users.len() as Pid
    }

    fn is_end(&self) -> bool {
        let users_are_done = self.users.iter().all(|user| user.at == user::At::Done);
        users_are_done && self.evictor.at == evictor::At::Done
    }

    fn after(&self, movement: Move) -> Result<Option<State>, &'static str> {
        let mut next = self.clone();
        let evictor = self.evictor_pid();
        let moved = match movement {
            Move::User(pid) => next.users[pid as usize].step(&mut next.disk, pid)?,
            Move::Evictor { of_blob } => {
                let only_choice = self.evictor.at != evictor::At::Choose;
                !(of_blob && only_choice) && next.evictor.step(&mut next.disk, evictor, of_blob)?
            }
            Move::UserDies(_) | Move::EvictorDies if self.crashes == 0 => false,
            Move::UserDies(pid) => {
                next.crashes -= 1;
                next.disk.bury(pid);
                next.users[pid as usize] = User::new();
                true
            }
            Move::EvictorDies => {
                next.crashes -= 1;
                next.disk.bury(evictor);
                next.evictor = Evictor::new(1, self.evictor.order);
                true
            }
        };
        next.renumber();
        Ok(moved.then_some(next))
    }

    /// Forgets files that nobody can reach, so that equal states are equal.
    fn renumber(&mut self) {
        let mut files: Vec<Id> = Vec::new();
        let mut sidecars: Vec<Id> = Vec::new();
        let number = |ids: &mut Vec<Id>, id: &mut Option<Id>| {
            if let Some(id) = id {
                *id = ids.iter().position(|known| known == id).unwrap_or_else(|| {
                    ids.push(*id);
                    ids.len() - 1
                });
            }
        };
        for place in [&mut self.disk.partial, &mut self.disk.blob] {
            number(&mut files, &mut place.data);
            number(&mut sidecars, &mut place.sidecar);
        }
        for user in &mut self.users {
            number(&mut files, &mut user.file);
            number(&mut sidecars, &mut user.sidecar);
        }
        number(&mut files, &mut self.evictor.file);
        self.disk.files = files.iter().map(|id| self.disk.files[*id]).collect();
        self.disk.sidecars = sidecars.iter().map(|id| self.disk.sidecars[*id]).collect();
    }

    /// Evicts all, alone; fails if files are left.
    ///
    /// Who dies while a partial is made may leave one that has no row. It is found by its name: by
    /// the next to open the object, and by `gc`.
    fn sweep(&self) -> Result<(), &'static str> {
        let mut last = self.clone();
        last.disk.partial_counted |= last.disk.partial.data.is_some();
        last.evictor = Evictor::new(4, self.evictor.order);
        while last.evictor.at != evictor::At::Done {
            let pid = last.evictor_pid();
            let of_partial = last.evictor.step(&mut last.disk, pid, false)?;
            if !of_partial && !last.evictor.step(&mut last.disk, pid, true)? {
                return Err("the evictor is stuck");
            }
        }
        if last.disk.partial.data.is_some() || last.disk.blob.data.is_some() {
            return Err("space is lost: a file is left that nobody counts");
        }
        Ok(())
    }
}

/// Goes through all states that can come to be.
fn explore(start: State) -> Explored {
    let mut seen = HashSet::from([start.clone()]);
    let mut order: Vec<(Option<usize>, Option<Move>)> = vec![(None, None)];
    let mut todo = VecDeque::from([(0, start)]);
    let path = |order: &[(Option<usize>, Option<Move>)], mut at: usize, last: Option<Move>| {
        let mut moves: Vec<String> = last.iter().map(|m| format!("{m:?}")).collect();
        while let (Some(before), Some(movement)) = order[at] {
            moves.push(format!("{movement:?}"));
            at = before;
        }
        moves.reverse();
        moves
    };
    while let Some((at, state)) = todo.pop_front() {
        let pids = 0..state.users.len() as Pid;
        let moves = pids
            .clone()
            .map(Move::User)
            .chain(pids.map(Move::UserDies))
            .chain([false, true].map(|of_blob| Move::Evictor { of_blob }))
            .chain([Move::EvictorDies]);
        let mut goes_on = false;
        for movement in moves {
            let next = match state.after(movement) {
                Ok(Some(next)) => next,
                Ok(None) => continue,
                Err(why) => return Err((why.into(), path(&order, at, Some(movement)))),
            };
            goes_on |= !matches!(movement, Move::UserDies(_) | Move::EvictorDies);
            if seen.insert(next.clone()) {
                order.push((Some(at), Some(movement)));
                todo.push_back((order.len() - 1, next));
            }
        }
        if state.is_end() {
            if let Err(why) = state.sweep() {
                return Err((format!("{why}: {state:?}"), path(&order, at, None)));
            }
        } else if !goes_on {
            return Err((
                format!("all wait for ever: {state:?}"),
                path(&order, at, None),
            ));
        }
    }
    Ok(order.len())
}

fn keeps_its_promises(users: usize, evictions: u8, crashes: u8) -> usize {
    match explore(State::new(users, evictions, crashes, Order::SidecarFirst)) {
        Ok(states) => {
            println!("{states} states of {users} users, {evictions} evictions, {crashes} crashes");
            states
        }
        Err((why, moves)) => panic!("{why}\n{}", moves.join("\n")),
    }
}

fn from_environment(name: &str, default: u8) -> u8 {
    std::env::var(name).map_or(default, |n| n.parse().unwrap())
}

#[test]
fn two_users_and_an_evictor_keep_their_promises() {
    let users = from_environment("PROTOCOL_USERS", 2).into();
    let evictions = from_environment("PROTOCOL_EVICTIONS", 2);
    let crashes = from_environment("PROTOCOL_CRASHES", 0);
    assert!(keeps_its_promises(users, evictions, crashes) > 10_000);
}

#[test]
fn a_user_or_an_evictor_may_die_at_any_step() {
    assert!(keeps_its_promises(1, 2, 2) > 1_000);
}

#[test]
fn one_of_two_users_may_die_at_any_step() {
    assert!(keeps_its_promises(2, 0, 1) > 1_000);
}

/// Removing the data before the sidecar took away the sidecar of a partial that was made between.
#[test]
fn the_order_of_removal_matters() {
    let Err((why, _)) = explore(State::new(2, 2, 0, Order::DataFirst)) else {
        panic!("nothing is found wrong with the wrong order");
    };
    assert_eq!(why, "two live processes fetch one range");
}
