//! Webhooks: from a message to a signed request, and what its answer means.
//! Must not know: sockets.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use data_encoding::BASE64;
use ring::hmac;

use super::text::Letter;
use super::{formats, http};
use crate::clock;
use crate::config::notifiers::{Format, Webhook};
use crate::config::notify::NoticeKind;
use crate::engine::notice::DeliveryError;
use crate::limits;
use crate::url::{HttpUrl, percent_encode};

/// Sends a message.
pub fn send(webhook: &Webhook, letter: &Letter<'_>) -> Result<(), DeliveryError> {
    let mut secrets = Vec::new();
    try_send(webhook, letter, &mut secrets).map_err(|mut error| {
        for secret in secrets.iter().filter(|secret| secret.len() > 3) {
            error.reason = error.reason.replace(secret.as_str(), "***");
        }
        error
    })
}

/// What must not be seen is added to `secrets`.
fn try_send(webhook: &Webhook, letter: &Letter<'_>, secrets: &mut Vec<String>) -> Result<(), DeliveryError> {
    let url = match (&webhook.url, &webhook.url_file) {
        (Some(url), _) => url.clone(),
        (None, Some(path)) => HttpUrl::parse(&secret(path, "url_file")?)
            .map_err(|why| failed(format!("the URL in '{}' {why}", path.display())))?,
        (None, None) => return Err(failed("it has no URL".into())),
    };
    let token = match &webhook.token_file {
        Some(path) => Some(secret(path, "token_file")?),
        None => None,
    };
    secrets.push(url.path.clone());
    secrets.extend(token.clone());
    let (method, url, body, mut headers) = form(webhook, url, letter, token.as_deref());
    if let Some(path) = &webhook.secret_file {
        headers.extend(signature(letter.id, &body, &secret(path, "secret_file")?)?);
    }
    let reply = http::send(&http::Request {
        method,
        url: &url,
        headers,
        body: &body,
        ca_file: webhook.ca_file.as_deref(),
    })
    .map_err(failed)?;
    judge(&url, reply)
}

type Form = (&'static str, HttpUrl, Vec<u8>, Vec<(&'static str, String)>);

/// Method, URL, body and headers.
fn form(webhook: &Webhook, mut url: HttpUrl, letter: &Letter<'_>, token: Option<&str>) -> Form {
    let mut headers = vec![("Content-Type", "application/json".to_string())];
    let bearer = token.map(|token| ("Authorization", format!("Bearer {token}")));
    if let Some(template) = &webhook.body {
        headers.extend(bearer);
        return ("POST", url, formats::template(template, letter).into(), headers);
    }
    let json = match webhook.format {
        Format::Saltpeter => letter.json(),
        Format::Slack => formats::slack(letter),
        Format::Teams => formats::teams(letter),
        Format::PagerDuty => {
            let body = formats::pagerduty(letter, token.unwrap_or_default());
            return ("POST", url, body.to_string().into(), headers);
        }
        Format::Matrix => {
            // the server takes the same transaction once
            let base = url.path.trim_end_matches('/').to_string();
            let room = percent_encode(webhook.room.as_deref().unwrap_or_default());
            url.path = format!(
                "{base}/_matrix/client/v3/rooms/{room}/send/m.room.message/{}",
                letter.id
            );
            headers.extend(bearer);
            return ("PUT", url, formats::matrix(letter).to_string().into(), headers);
        }
        Format::Ntfy => {
            let is_bad = matches!(
                letter.latest().kind,
                NoticeKind::Failure | NoticeKind::Lost | NoticeKind::Missed
            );
            headers = vec![
                ("Content-Type", "text/plain; charset=utf-8".to_string()),
                ("Title", super::mail::encoded_word(&letter.subject())),
                ("Priority", if is_bad { "high" } else { "default" }.to_string()),
            ];
            headers.extend(bearer);
            return ("POST", url, formats::cut(&letter.text()).into(), headers);
        }
    };
    headers.extend(bearer);
    ("POST", url, json.to_string().into(), headers)
}

/// The headers of Standard Webhooks. A secret file may hold several keys, a line each: while one takes another's place, receivers
/// accept either.
fn signature(id: &str, body: &[u8], keys: &str) -> Result<Vec<(&'static str, String)>, DeliveryError> {
    let timestamp = clock::wall().secs().to_string();
    let mut signatures = Vec::new();
    for key in keys.lines().map(str::trim).filter(|key| !key.is_empty()) {
        let key = match key.strip_prefix("whsec_") {
            Some(encoded) => BASE64
                .decode(encoded.as_bytes())
                .map_err(|_| failed("secret_file has a key that is not base64 behind 'whsec_'".into()))?,
            None => key.as_bytes().to_vec(),
        };
        signatures.push(format!("v1,{}", BASE64.encode(&sign(&key, id, &timestamp, body))));
    }
    Ok(vec![
        ("webhook-id", id.to_string()),
        ("webhook-timestamp", timestamp),
        ("webhook-signature", signatures.join(" ")),
    ])
}

fn sign(key: &[u8], id: &str, timestamp: &str, body: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let mut context = hmac::Context::with_key(&key);
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        context.update(part);
    }
    context.sign().as_ref().to_vec()
}

/// 2xx alone is success. A redirect is not followed: where it leads nobody has configured.
fn judge(url: &HttpUrl, reply: http::Reply) -> Result<(), DeliveryError> {
    if (200..300).contains(&reply.status) {
        return Ok(());
    }
    let is_redirect = (300..400).contains(&reply.status);
    let words: String = reply.text.split_whitespace().collect::<Vec<_>>().join(" ");
    let words: String = words.chars().take(limits::NOTIFY_REPLY_CHARS).collect();
    let why = match words.as_str() {
        _ if is_redirect => " (redirects are not followed)".to_string(),
        "" => String::new(),
        words => format!(": {words}"),
    };
    Err(DeliveryError {
        reason: format!("{} answered {}{why}", url.origin(), reply.status),
        retry_after_s: reply.retry_after_s,
        is_refusal: (400..500).contains(&reply.status) && !matches!(reply.status, 408 | 425 | 429),
        is_gone: reply.status == 410,
    })
}

/// The text of a file that holds a secret.
fn secret(path: &Path, field: &str) -> Result<String, DeliveryError> {
    let told = |why: String| failed(format!("cannot read {field} '{}': {why}", path.display()));
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(limits::SECRET_FILE_BYTES).read_to_string(&mut text))
        .map_err(|error| told(error.to_string()))?;
    let text = text.trim();
    if text.is_empty() {
        return Err(told("it is empty".to_string()));
    }
    Ok(text.to_string())
}

fn failed(reason: String) -> DeliveryError {
    DeliveryError {
        reason,
        ..DeliveryError::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_the_standards_example() {
        let key = BASE64.decode(b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        let signed = sign(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body);
        assert_eq!(
            BASE64.encode(&signed),
            "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn an_answer_says_whether_to_try_again_and_a_redirect_is_none() {
        let url = HttpUrl::parse("https://hooks.example.com/s3cret").unwrap();
        let answer = |status| {
            judge(
                &url,
                http::Reply {
                    status,
                    retry_after_s: None,
                    text: "no\r\nway".into(),
                },
            )
        };
        assert_eq!(answer(204), Ok(()));
        let refused = answer(400).unwrap_err();
        assert!(refused.is_refusal && !refused.is_gone);
        assert_eq!(refused.reason, "https://hooks.example.com answered 400: no way");
        assert!(answer(410).unwrap_err().is_gone);
        for later in [302, 408, 425, 429, 500, 503] {
            assert!(!answer(later).unwrap_err().is_refusal, "{later}");
        }
        assert!(
            answer(302)
                .unwrap_err()
                .reason
                .contains("redirects are not followed")
        );
    }
}
