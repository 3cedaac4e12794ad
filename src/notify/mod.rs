//! Delivers messages of notices: a thread for each destination, so that one that hangs holds up no other.
//! Must not know: what is told when, what is tried again.
//!
//! Reading order: `text.rs` what a message says, `webhook.rs` and `formats.rs` with `http.rs` requests, `mail.rs` and `command.rs` with
//! `program.rs` programs.

mod command;
mod formats;
mod http;
mod mail;
mod program;
mod text;
mod webhook;

use std::collections::HashMap;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::config::notifiers::Channel;
use crate::engine::effect::NotifyOrder;
use crate::engine::event::Event;
use crate::engine::notice::{DeliveryError, Message};
use crate::storage::Reader;
use crate::url::HttpUrl;
use crate::{limits, thread};

use text::Letter;

/// The threads. They are not joined: what they are at is tried again after the next start.
pub struct Notifications {
    reader: Reader,
    control: Sender<Event>,
    destinations: HashMap<String, Sender<Message>>,
    heartbeat: Option<Sender<HttpUrl>>,
}

impl Notifications {
    /// Starts nothing yet. Outputs are read with `reader`, results go to `control`.
    pub fn new(reader: Reader, control: Sender<Event>) -> Notifications {
        Notifications {
            reader,
            control,
            destinations: HashMap::new(),
            heartbeat: None,
        }
    }

    /// Does what the engine wants.
    pub fn carry_out(&mut self, order: NotifyOrder) {
        match order {
            NotifyOrder::Deliver(message) => self.deliver(*message),
            NotifyOrder::Heartbeat { url } => self.heartbeat(url),
        }
    }

    /// Hands a message to its destination's thread; never blocks. Whatever becomes of it is reported as
    /// [`Event::Delivered`].
    fn deliver(&mut self, message: Message) {
        if self.destinations.len() >= 2 * limits::NOTIFIERS {
            // most are not configured any more; their threads end when they are idle
            self.destinations.clear();
        }
        let name = message.notifier.name.clone();
        if !self.destinations.contains_key(&name) {
            let (sender, messages) = bounded(1);
            let (reader, control) = (self.reader.clone(), self.control.clone());
            let body = move || serve(&reader, &messages, &control);
            match thread::spawn("notify", limits::STACK_BYTES, body) {
                Ok(_) => drop(self.destinations.insert(name.clone(), sender)),
                Err(error) => return self.refuse(&message, format!("cannot start a thread: {error}")),
            }
        }
        let sent = self.destinations[&name].try_send(message);
        match sent {
            Ok(()) => {}
            Err(TrySendError::Full(message)) => self.refuse(&message, "the destination is still busy".into()),
            Err(TrySendError::Disconnected(message)) => {
                self.destinations.remove(&name);
                self.refuse(&message, "the destination's thread has ended".into());
            }
        }
    }

    fn refuse(&self, message: &Message, reason: String) {
        let error = DeliveryError {
            reason,
            ..DeliveryError::default()
        };
        // from the engine's own thread: where the queue is full, the engine takes the message for lost in time
        let _ = self.control.try_send(delivered(message, Err(error)));
    }

    /// Requests that URL. While an earlier request hangs, this one is left out.
    fn heartbeat(&mut self, url: HttpUrl) {
        if self.heartbeat.is_none() {
            let (sender, urls) = bounded(1);
            if thread::spawn("heartbeat", limits::STACK_BYTES, move || ask_all(&urls)).is_ok() {
                self.heartbeat = Some(sender);
            }
        }
        if let Some(heartbeat) = &self.heartbeat {
            let _ = heartbeat.try_send(url);
        }
    }
}

fn delivered(message: &Message, result: Result<(), DeliveryError>) -> Event {
    Event::Delivered {
        to: message.notifier.name.clone(),
        message: message.id.clone(),
        result,
    }
}

fn serve(reader: &Reader, messages: &Receiver<Message>, control: &Sender<Event>) {
    while let Ok(message) = messages.recv() {
        let letter = Letter::new(&message, reader);
        let result = match &message.notifier.channel {
            Channel::Webhook(webhook) => webhook::send(webhook, &letter),
            Channel::Mail(mail) => mail::send(mail, &letter),
            Channel::Command(command) => command::run(command, &letter),
        };
        if control.send(delivered(&message, result)).is_err() {
            return;
        }
    }
}

fn ask_all(urls: &Receiver<HttpUrl>) {
    let mut has_failed = false;
    while let Ok(url) = urls.recv() {
        let request = http::Request {
            method: "GET",
            url: &url,
            headers: Vec::new(),
            body: b"",
            ca_file: None,
        };
        let failure = match http::send(&request) {
            Ok(reply) if (200..300).contains(&reply.status) => None,
            Ok(reply) => Some(format!("it answered {}", reply.status)),
            Err(why) => Some(why),
        };
        match &failure {
            Some(why) if !has_failed => log::warn!("heartbeat_url {}: {why}", url.origin()),
            None if has_failed => log::info!("heartbeat_url {} works again", url.origin()),
            _ => {}
        }
        has_failed = failure.is_some();
    }
}
