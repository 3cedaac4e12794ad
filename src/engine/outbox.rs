//! Notices on their way: gathered into messages, handed out one at a time to each destination, tried again for a day.
//! A message is stored before it is handed out, so that after a restart the same one is tried under the same id.
//! Must not know: what a notice says, how it is delivered.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use log::Level;

use crate::clock::Wall;
use crate::config::notifiers::{Channel, Format, Notifier};
use crate::config::notify::NoticeKind;
use crate::engine::awake::AwakeMs;
use crate::engine::board::NotifierBoard;
use crate::engine::commits::Waiting;
use crate::engine::control::{audit, control_fact};
use crate::engine::effect::{Done, Effect, Fact, NotifyOrder, Refusal, Write};
use crate::engine::event::StoreOutcome;
use crate::engine::id::RequestId;
use crate::engine::notice::{DeliveryError, Message, NoticeFacts, NoticeRecord, NoticeStage};
use crate::engine::record::Control;
use crate::engine::{Engine, Turn};
use crate::limits;

/// All destinations that have something to deliver, or had.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    next_id: u64,
    queues: BTreeMap<String, Queue>,
    /// When `heartbeat_url` was asked last.
    heartbeat: Option<AwakeMs>,
}

/// What waits for one destination.
#[derive(Debug, Default)]
struct Queue {
    /// Not part of a message yet.
    fresh: VecDeque<NoticeRecord>,
    messages: VecDeque<Pending>,
    /// When the fresh ones become a message.
    gathered: Option<AwakeMs>,
    /// When a message was handed out last.
    last: Option<AwakeMs>,
    board: NotifierBoard,
}

/// A message.
#[derive(Debug)]
struct Pending {
    id: String,
    notices: Vec<NoticeRecord>,
    stage: Stage,
    tries: u32,
    /// How often it was refused as such.
    refusals: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// Handed to storage, or refused by it: to be offered again then.
    Storing(Option<AwakeMs>),
    Ready(AwakeMs),
    Sending(AwakeMs),
}

impl Outbox {
    /// What storage has kept.
    pub(super) fn recovered(
        next_id: u64,
        notices: Vec<NoticeRecord>,
        given_up: Vec<(String, u64)>,
    ) -> Outbox {
        let mut outbox = Outbox {
            next_id: next_id.max(1),
            ..Outbox::default()
        };
        for (to, count) in given_up {
            outbox.queue(&to).board.given_up = count;
        }
        for notice in notices {
            outbox.next_id = outbox.next_id.max(notice.id + 1);
            let queue = outbox.queue(&notice.to);
            let Some(id) = notice.message.clone() else {
                queue.fresh.push_back(notice);
                continue;
            };
            match queue.messages.iter_mut().find(|message| message.id == id) {
                Some(message) => message.notices.push(notice),
                None => queue.messages.push_back(Pending {
                    id,
                    tries: notice.tries,
                    notices: vec![notice],
                    stage: Stage::Ready(0),
                    refusals: 0,
                }),
            }
        }
        outbox
    }

    fn queue(&mut self, to: &str) -> &mut Queue {
        self.queues.entry(to.to_string()).or_default()
    }

    /// Queues a notice; what is to be stored.
    pub(super) fn add(
        &mut self,
        to: &str,
        turn: &Turn,
        not_before: Option<Wall>,
        facts: Arc<NoticeFacts>,
    ) -> (u64, Vec<Fact>) {
        let id = self.next_id;
        self.next_id += 1;
        let notice = NoticeRecord {
            id,
            to: to.to_string(),
            at: turn.now.wall,
            not_before,
            message: None,
            stage: NoticeStage::Waiting,
            tries: 0,
            error: None,
            done: None,
            facts,
        };
        let mut stored = vec![Fact::Notice(Box::new(notice.clone()))];
        let queue = self.queue(to);
        queue.fresh.push_back(notice);
        if queue.fresh.len() > limits::NOTICES_WAITING
            && let Some(mut oldest) = queue.fresh.pop_front()
        {
            oldest.error = Some(format!(
                "gave way: more than {} were waiting",
                limits::NOTICES_WAITING
            ));
            give_up(&mut oldest, turn.now.wall);
            queue.board.given_up += 1;
            stored.push(Fact::Notice(Box::new(oldest)));
        }
        (id, stored)
    }
}

impl Queue {
    /// A message is in the way of those behind it.
    fn is_blocked(&self) -> bool {
        self.messages
            .iter()
            .any(|message| message.refusals < limits::NOTICE_REFUSALS)
    }

    /// The fresh notices that make the next message, once their time has come.
    fn gather(&mut self, now: Wall, awake: AwakeMs, is_single: bool) -> Vec<NoticeRecord> {
        let is_held = |notice: &NoticeRecord| notice.not_before.is_some_and(|until| until > now);
        let is_tested = self.fresh.iter().any(is_test);
        if is_tested {
            // the result is wanted now, whatever else waits
            let (taken, rest): (VecDeque<_>, VecDeque<_>) =
                std::mem::take(&mut self.fresh).into_iter().partition(is_test);
            self.fresh = rest;
            return taken.into();
        }
        if self.fresh.iter().all(is_held) || self.is_blocked() {
            return Vec::new();
        }
        let pause_over = self.last.map_or(0, |last| last + limits::NOTICE_PAUSE_MS);
        let at = *self
            .gathered
            .get_or_insert((awake + limits::NOTICE_GROUP_MS).max(pause_over));
        if awake < at && !is_single {
            return Vec::new();
        }
        self.gathered = None;
        let most = if is_single { 1 } else { limits::NOTICES_IN_MESSAGE };
        let (mut taken, mut rest) = (Vec::new(), VecDeque::new());
        for notice in std::mem::take(&mut self.fresh) {
            if taken.len() < most && !is_held(&notice) {
                taken.push(notice);
            } else {
                rest.push_back(notice);
            }
        }
        self.fresh = rest;
        taken
    }

    /// The place of the message to be handed out now, if any.
    fn next(&self, awake: AwakeMs) -> Option<usize> {
        if self
            .messages
            .iter()
            .any(|message| matches!(message.stage, Stage::Sending(_)))
        {
            return None;
        }
        for (place, message) in self.messages.iter().enumerate() {
            if matches!(message.stage, Stage::Ready(at) if at <= awake) {
                return Some(place);
            }
            if message.refusals < limits::NOTICE_REFUSALS {
                return None;
            }
        }
        None
    }

    /// A message was delivered: what is said of it, and its notices as they are now.
    fn taken(&mut self, place: usize, now: Wall) -> (Level, String, Vec<NoticeRecord>) {
        let notices = self.messages.remove(place).map(|message| message.notices);
        let mut notices = notices.unwrap_or_default();
        for notice in &mut notices {
            notice.stage = NoticeStage::Sent;
            notice.tries += 1;
            notice.error = None;
            notice.done = Some(now);
        }
        self.board = NotifierBoard {
            sent: self.board.sent + notices.len() as u64,
            failures: self.board.failures,
            ..NotifierBoard::default()
        };
        (
            Level::Info,
            format!("{} notices delivered", notices.len()),
            notices,
        )
    }

    /// It was not.
    fn failed(
        &mut self,
        place: usize,
        now: Wall,
        awake: AwakeMs,
        error: &DeliveryError,
    ) -> (Level, String, Vec<NoticeRecord>) {
        let message = &mut self.messages[place];
        message.tries += 1;
        message.refusals += u32::from(error.is_refusal);
        let printable = error.reason.chars().map(|c| if c.is_control() { ' ' } else { c });
        let reason: String = printable.take(limits::NOTICE_ERROR_CHARS).collect();
        // a user waits for the test's result
        let is_test = message.notices.iter().all(is_test);
        let is_over = error.is_gone || is_test || message.tries >= limits::NOTICE_TRIES;
        let pauses = &limits::NOTICE_RETRY_MS;
        let pause_ms = pauses[(message.tries as usize - 1).min(pauses.len() - 1)];
        let wanted_ms = error.retry_after_s.unwrap_or(0).min(limits::NOTICE_RETRY_MAX_S) * 1_000;
        message.stage = Stage::Ready(awake + pause_ms.max(wanted_ms));
        for notice in &mut message.notices {
            notice.tries += 1;
            notice.error = Some(reason.clone());
            if is_over {
                give_up(notice, now);
            }
        }
        let notices = message.notices.clone();
        let next = if is_over {
            "given up"
        } else {
            "will be tried again"
        };
        let said = format!("{} notices not delivered, {next}: {reason}", notices.len());
        self.board.failures += 1;
        self.board.error = Some(reason);
        self.board.failing_since.get_or_insert(now);
        if is_over {
            self.board.given_up += if is_test { 0 } else { notices.len() as u64 };
            self.messages.remove(place);
        }
        (Level::Warn, said, notices)
    }

    fn waiting(&self) -> usize {
        self.fresh.len()
            + self
                .messages
                .iter()
                .map(|message| message.notices.len())
                .sum::<usize>()
    }
}

impl Engine {
    /// Once a second: gathers, hands out, tries again.
    pub(super) fn send_notices(&mut self, turn: &mut Turn) {
        self.ask_heartbeat(turn);
        if self.outbox.queues.values().all(|queue| queue.waiting() == 0) {
            return;
        }
        let names: Vec<String> = self.outbox.queues.keys().cloned().collect();
        for to in names {
            let notifier = self.config.settings.notifiers.get(&to).cloned();
            self.gather(turn, &to, notifier.as_deref());
            self.offer_again(turn, &to);
            self.hand_out(turn, &to, notifier);
        }
    }

    fn gather(&mut self, turn: &mut Turn, to: &str, notifier: Option<&Notifier>) {
        let id = self.random.token();
        let queue = self.outbox.queue(to);
        let notices = queue.gather(turn.now.wall, turn.awake, notifier.is_some_and(is_single));
        if notices.is_empty() {
            return;
        }
        let id = format!("msg_{}", id.get(..32).unwrap_or(&id));
        let notices: Vec<NoticeRecord> = notices
            .into_iter()
            .map(|notice| NoticeRecord {
                message: Some(id.clone()),
                ..notice
            })
            .collect();
        let is_tested = notices.iter().all(is_test);
        let message = Pending {
            id: id.clone(),
            notices,
            stage: Stage::Storing(None),
            tries: 0,
            refusals: 0,
        };
        if is_tested {
            queue.messages.push_front(message);
        } else {
            queue.messages.push_back(message);
        }
        self.store_message(turn, to, &id);
    }

    fn store_message(&mut self, turn: &mut Turn, to: &str, id: &str) {
        let queue = self.outbox.queue(to);
        let Some(message) = queue.messages.iter_mut().find(|message| message.id == id) else {
            return;
        };
        message.stage = Stage::Storing(None);
        let facts = message
            .notices
            .iter()
            .map(|notice| Fact::Notice(Box::new(notice.clone())));
        let facts = facts.collect();
        let ticket = self.ticket(Waiting::Message {
            to: to.to_string(),
            id: id.to_string(),
        });
        turn.commit(Write {
            facts,
            ticket: Some(ticket),
            ..Write::default()
        });
    }

    /// Messages that storage has refused.
    fn offer_again(&mut self, turn: &mut Turn, to: &str) {
        let refused =
            |message: &&Pending| matches!(message.stage, Stage::Storing(Some(at)) if at <= turn.awake);
        let queue = self.outbox.queue(to);
        let refused = queue
            .messages
            .iter()
            .find(refused)
            .map(|message| message.id.clone());
        if let Some(id) = refused {
            self.store_message(turn, to, &id);
        }
    }

    /// Storage has answered for a message.
    pub(super) fn message_stored(&mut self, turn: &mut Turn, to: &str, id: &str, outcome: &StoreOutcome) {
        let queue = self.outbox.queue(to);
        if let Some(message) = queue.messages.iter_mut().find(|message| message.id == id) {
            message.stage = match outcome {
                StoreOutcome::Committed => Stage::Ready(0),
                _ => Stage::Storing(Some(turn.awake + limits::NOTICE_RETRY_MS[0])),
            };
        }
        let notifier = self.config.settings.notifiers.get(to).cloned();
        self.hand_out(turn, to, notifier);
    }

    fn hand_out(&mut self, turn: &mut Turn, to: &str, notifier: Option<Arc<Notifier>>) {
        if self.is_shutting_down {
            return;
        }
        let queue = self.outbox.queue(to);
        let lost = |message: &Pending| matches!(message.stage, Stage::Sending(since) if turn.awake >= since + limits::NOTICE_ANSWER_MS);
        if let Some(id) = queue
            .messages
            .iter()
            .find(|message| lost(message))
            .map(|message| message.id.clone())
        {
            let error = DeliveryError {
                reason: "the delivery did not end".into(),
                ..DeliveryError::default()
            };
            return self.delivered(turn, to, &id, Err(error));
        }
        let Some(message) = queue
            .next(turn.awake)
            .and_then(|place| queue.messages.get_mut(place))
        else {
            return;
        };
        queue.last = Some(turn.awake);
        message.stage = Stage::Sending(turn.awake);
        let id = message.id.clone();
        let Some(notifier) = notifier else {
            let error = DeliveryError {
                reason: "the notifier is not configured any more".into(),
                ..DeliveryError::default()
            };
            return self.delivered(turn, to, &id, Err(error));
        };
        turn.effects
            .push(Effect::Notify(NotifyOrder::Deliver(Box::new(Message {
                id,
                notifier,
                notices: message.notices.clone(),
            }))));
    }

    /// A try to deliver a message has ended.
    pub(super) fn delivered(
        &mut self,
        turn: &mut Turn,
        to: &str,
        id: &str,
        result: Result<(), DeliveryError>,
    ) {
        let now = turn.now.wall;
        let queue = self.outbox.queue(to);
        let Some(place) = queue
            .messages
            .iter()
            .position(|message| message.id == id && matches!(message.stage, Stage::Sending(_)))
        else {
            return;
        };
        self.shown.is_changed = true;
        let (level, said, notices) = match result {
            Ok(()) => queue.taken(place, now),
            Err(error) => queue.failed(place, now, turn.awake, &error),
        };
        turn.say(level, format!("notifier {to}: {said} ({id})"));
        let facts = notices.into_iter().map(|notice| Fact::Notice(Box::new(notice)));
        turn.store(facts.collect());
    }

    /// A user wants a notice that waits, or was given up, to be tried now.
    pub(super) fn retry_notice_asked(
        &mut self,
        turn: &mut Turn,
        request: RequestId,
        notice: NoticeRecord,
        who: &str,
    ) {
        let id = notice.id;
        let mut audit = audit(
            turn.now.wall,
            who,
            "retry_notification",
            &id.to_string(),
            &notice.to,
        );
        let queue = self.outbox.queue(&notice.to);
        let known = queue
            .messages
            .iter_mut()
            .find(|message| message.notices.iter().any(|waiting| waiting.id == id));
        let mut facts = Vec::new();
        if let Some(message) = known {
            if let Stage::Ready(at) = &mut message.stage {
                *at = 0;
            }
        } else if let Some(waiting) = queue.fresh.iter_mut().find(|waiting| waiting.id == id) {
            waiting.not_before = None;
            facts.push(Fact::Notice(Box::new(waiting.clone())));
            queue.gathered = Some(0);
        } else if notice.stage == NoticeStage::Failed {
            let again = NoticeRecord {
                stage: NoticeStage::Waiting,
                tries: 0,
                done: None,
                not_before: None,
                message: None,
                ..notice
            };
            facts.push(Fact::Notice(Box::new(again.clone())));
            queue.fresh.push_back(again);
            queue.gathered = Some(0);
        } else {
            let refusal = Refusal::Conflict(format!("notification {id} was delivered"));
            return self.refuse(turn, request, audit, refusal);
        }
        audit.outcome = "ok".into();
        facts.push(control_fact(Control::Audit(audit)));
        self.answer_noticed(turn, request, id, facts);
    }

    /// A user tests a destination.
    pub(super) fn test_notifier_asked(&mut self, turn: &mut Turn, request: RequestId, name: &str, who: &str) {
        let mut audit = audit(turn.now.wall, who, "test_notifier", name, "");
        if !self.config.settings.notifiers.contains_key(name) {
            let refusal = Refusal::Invalid(format!("unknown notifier '{}'", name.escape_debug()));
            return self.refuse(turn, request, audit, refusal);
        }
        let about = Arc::new(NoticeFacts::about(NoticeKind::Test, ""));
        let (id, mut facts) = self.outbox.add(name, turn, None, about);
        audit.outcome = "ok".into();
        facts.push(control_fact(Control::Audit(audit)));
        self.answer_noticed(turn, request, id, facts);
    }

    fn answer_noticed(&mut self, turn: &mut Turn, request: RequestId, id: u64, facts: Vec<Fact>) {
        let answer = Ok(Done::Noticed { id });
        let ticket = self.ticket(Waiting::Answer { request, answer });
        turn.commit(Write {
            facts,
            ticket: Some(ticket),
            ..Write::default()
        });
    }

    /// `heartbeat_url`: only while storage takes writes, which a write of its own proves.
    fn ask_heartbeat(&mut self, turn: &mut Turn) {
        if self.config.settings.heartbeat_url.is_none() || self.is_shutting_down {
            return;
        }
        let last = self.outbox.heartbeat;
        if last.is_some_and(|last| turn.awake < last + limits::HEARTBEAT_URL_MS) {
            return;
        }
        self.outbox.heartbeat = Some(turn.awake);
        let ticket = self.ticket(Waiting::Heartbeat);
        turn.commit(Write {
            facts: vec![Fact::Heartbeat(turn.now.wall)],
            ticket: Some(ticket),
            ..Write::default()
        });
    }

    pub(super) fn heartbeat_stored(&mut self, turn: &mut Turn) {
        if let Some(url) = self.config.settings.heartbeat_url.clone()
            && self.storage_trouble.is_none()
        {
            turn.effects.push(Effect::Notify(NotifyOrder::Heartbeat { url }));
        }
    }

    /// Destinations as they are shown.
    pub(super) fn notifier_boards(&self) -> BTreeMap<String, NotifierBoard> {
        let configured = self
            .config
            .settings
            .notifiers
            .keys()
            .map(|name| (name.clone(), NotifierBoard::default()));
        let mut boards: BTreeMap<String, NotifierBoard> = configured.collect();
        for (to, queue) in &self.outbox.queues {
            let board = NotifierBoard {
                waiting: queue.waiting() as u64,
                tries: queue
                    .messages
                    .iter()
                    .map(|message| message.tries)
                    .max()
                    .unwrap_or(0),
                ..queue.board.clone()
            };
            boards.insert(to.clone(), board);
        }
        boards
    }
}

/// Each notice is an incident of its own there.
fn is_single(notifier: &Notifier) -> bool {
    matches!(&notifier.channel, Channel::Webhook(webhook) if webhook.format == Format::PagerDuty && webhook.body.is_none())
}

fn is_test(notice: &NoticeRecord) -> bool {
    notice.facts.kind == NoticeKind::Test
}

fn give_up(notice: &mut NoticeRecord, at: Wall) {
    notice.stage = NoticeStage::Failed;
    notice.done = Some(at);
}
