//! One question to a source and its answer: authentication, redirects, and the predicate that turns a status into a
//! fault. No retry here but two that the protocol itself asks for: after a 401, and for a fresh Location when a
//! signed URL has expired on the way. Each happens at most once per question, so there is no loop.

use std::sync::Arc;

use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, IF_NONE_MATCH, LOCATION, RANGE, VIA};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use reqwest::Response;
use url::Url;

use super::auth::{Authorization, Authorizer, outcome};
use super::challenge::challenges_of;
use super::error::{Reason, UpstreamError};
use super::headers;
use super::hops::Hops;
use super::limits::HOPS_MAX;
use super::place::Place;
use super::redirect;
use super::source::Source;
use super::transport::Transport;
use crate::metrics::Metrics;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What is asked.
pub(super) struct Question<'a> {
    pub place: &'a Place,
    /// Value of the `kind` label.
    pub kind: &'static str,
    pub method: Method,
    pub url: Url,
    pub accept: &'static str,
    pub range: Option<HeaderValue>,
    pub if_none_match: Option<HeaderValue>,
    /// Statuses that are answers rather than errors.
    pub statuses: &'static [u16],
}

/// Headers that arrived with one of the statuses asked for; the body follows.
#[derive(Debug)]
pub(super) struct Answer {
    pub response: Response,
    /// Where it came from, redirects followed.
    pub url: Url,
    /// Whether it came from the source itself. Elsewhere nothing but the bytes means anything.
    pub at_home: bool,
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }
}

/// What every question shares.
pub(super) struct Exchange {
    pub transport: Transport,
    pub authorizer: Authorizer,
    pub metrics: Arc<Metrics>,
    pub instance: String,
    pub forward_client_address: bool,
}

impl Exchange {
    /// Asks, and counts how it ended.
    pub async fn ask(&self, question: &Question<'_>) -> Result<Answer, UpstreamError> {
        let result = self.authenticated(question).await;
        let outcome = match &result {
            Ok(answer) if answer.status() == 304 => "not-modified",
            Ok(_) => "ok",
            Err(error) => outcome(&error.fault()),
        };
        self.metrics.upstream_request(&question.place.source.label, question.kind, outcome);
        result
    }

    async fn authenticated(&self, question: &Question<'_>) -> Result<Answer, UpstreamError> {
        let asked = &question.place.asked;
        if asked.hops.count() >= HOPS_MAX {
            return Err(UpstreamError::new(&question.url, Reason::Hops(asked.hops.count())));
        }
        let (source, repository) = (&*question.place.source, &asked.scope.repository);
        let auth_failed = |fault| UpstreamError::new(&question.url, Reason::Auth(fault));
        let mut authorization =
            self.authorizer.known(&self.transport, source, repository).await.map_err(auth_failed)?;
        let (mut authenticated, mut fresh_location) = (false, false);
        loop {
            let answer = self.follow(question, authorization.as_ref()).await?;
            match answer.status() {
                401 if answer.at_home && !authenticated => {
                    authenticated = true;
                    let challenges = challenges_of(answer.headers());
                    self.transport.drain(&answer.url, answer.response).await;
                    let refused = authorization.as_ref();
                    let next =
                        self.authorizer.answer(&self.transport, source, repository, &challenges, refused);
                    authorization = Some(next.await.map_err(auth_failed)?);
                }
                // The signature of the URL, or the token behind it, did not live as long as the way there. A HEAD is
                // refused because the URL was signed for GET, and would be again.
                401 | 403 if !answer.at_home && !fresh_location && question.method == Method::GET => {
                    fresh_location = true;
                    self.transport.drain(&answer.url, answer.response).await;
                }
                status if question.statuses.contains(&status) => return Ok(answer),
                _ => {
                    let error =
                        self.transport.status_error(&answer.url, answer.response, answer.at_home).await;
                    return Err(match source.credentials.problem() {
                        Some(problem) if answer.at_home => error.without_credentials(&problem),
                        _ => error,
                    });
                }
            }
        }
    }

    /// Sends the question and follows redirects. Once another origin has been asked, nothing that identifies us is
    /// sent any more, not even when a redirect leads back.
    async fn follow(
        &self,
        question: &Question<'_>,
        authorization: Option<&Authorization>,
    ) -> Result<Answer, UpstreamError> {
        let source = &*question.place.source;
        let mut url = question.url.clone();
        let mut at_home = true;
        for followed in 0.. {
            let headers = self.headers(question, authorization.filter(|_| at_home), at_home);
            let client = if at_home { &source.client } else { &source.plain_client };
            let response = self.transport.send(client, question.method.clone(), &url, headers, None).await?;
            if at_home {
                self.note_rate_limit(source, response.headers());
            }
            if !redirect::is_redirect(response.status().as_u16()) {
                return Ok(Answer { response, url, at_home });
            }
            let next = redirect::target(&url, response.headers().get(LOCATION), followed)
                .map_err(|fault| UpstreamError::new(&url, Reason::Redirect(fault)))?;
            self.transport.drain(&url, response).await;
            at_home = at_home && source.is_home(&next);
            url = next;
        }
        unreachable!("redirect::target ends the loop")
    }

    /// What a registry tells of its limits (Docker Hub does with every answer).
    fn note_rate_limit(&self, source: &Source, headers: &HeaderMap) {
        if let Some(limit) = headers::rate_limit(headers) {
            self.metrics.upstream_rate_limit(&source.label, limit.limit, limit.remaining);
        }
    }

    /// Whether a source answers at all; what it answers to the base endpoint does not matter.
    pub async fn ping(&self, source: &Source) -> Result<(), UpstreamError> {
        let mut url = source.endpoint.clone();
        url.set_path(&format!("{}/v2/", source.endpoint.path().trim_end_matches('/')));
        let headers = HeaderMap::from_iter([(VIA, Hops::default().via(&self.instance))]);
        let response = self.transport.send(&source.client, Method::GET, &url, headers, None).await?;
        if response.status().is_server_error() {
            return Err(self.transport.status_error(&url, response, true).await);
        }
        Ok(())
    }

    fn headers(
        &self,
        question: &Question<'_>,
        authorization: Option<&Authorization>,
        at_home: bool,
    ) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(question.accept));
        // Coded bytes have other offsets and another hash.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let asked = &question.place.asked;
        headers.insert(VIA, asked.hops.via(&self.instance));
        if let Some(range) = &question.range {
            headers.insert(RANGE, range.clone());
        }
        if !at_home {
            return headers;
        }
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization.header.clone());
        }
        if let Some(tag) = &question.if_none_match {
            headers.insert(IF_NONE_MATCH, tag.clone());
        }
        if let Some(client) = asked.client.filter(|_| self.forward_client_address) {
            let text = client.to_string();
            headers.insert(X_FORWARDED_FOR, HeaderValue::try_from(text).expect("an address is plain ASCII"));
        }
        headers
    }
}
