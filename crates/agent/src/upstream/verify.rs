//! Asking a registry itself who may have what: with a client's token, or with none.
//!
//! Nothing of ours is shown here, and a token goes to the registry's own origin only. An answer is taken for consent only
//! if content would have come: a redirect is followed, and a page for people is no content, because a gateway that sends
//! strangers to its log-in would otherwise hand out everything. Whether an answer may be remembered is not decided here.

use http::{HeaderValue, Method};
use shoal_engine::{Digest, Reference, Registry, Scope};
use url::Url;

use super::auth::{Authorization, outcome};
use super::challenge::bearer_to_hand_on;
use super::client_token::ClientToken;
use super::error::{Reason, UpstreamError};
use super::exchange::{Answer, Exchange, Question};
use super::health::Weight;
use super::place::Place;
use super::source::Source;
use super::walk::Subject;
use super::{Upstream, headers};
use crate::manifest;
use crate::node::{Asked, Listing};

/// What a client wants to have.
#[derive(Clone, Debug)]
pub enum Sought {
    /// A manifest.
    Manifest(Reference),
    /// A blob.
    Blob(Digest),
    /// A list.
    List(Listing),
}

/// What the registry said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It would have sent it.
    Granted,
    /// It would not. With the challenge to be handed to the client, unless it is one that would have the client send
    /// its password here.
    Refused(Option<HeaderValue>),
}

/// Added where a registry refuses a token without saying why: without it containerd shows the same token five times,
/// with it the client fetches a new one, once, and then goes on to its next host (`contract.md` 2.7).
const INVALID_TOKEN: &str = "invalid_token";

impl Upstream {
    /// Whether the registry would give `sought` to who shows this token, or no token. One request; two where `HEAD` is not
    /// supported. Mirrors are not asked: what they say is nobody's right.
    ///
    /// # Errors
    /// What keeps the registry from telling, a 404 among them: some hide by it what exists.
    pub async fn verify(
        &self,
        asked: &Asked,
        sought: &Sought,
        token: Option<&ClientToken>,
    ) -> Result<Verdict, UpstreamError> {
        let exchange = &self.inner.exchange;
        let ask = |place: Place| async move { exchange.verify(&place, sought, token).await };
        self.ask_registry(asked, ask).await
    }

    /// What the registry asks of somebody who shows nothing at `/v2/`: the challenge to be handed to the client.
    pub async fn ping(&self, registry: &Registry) -> Result<Verdict, UpstreamError> {
        // The place wants a repository, and the version check is about none.
        let scope = Scope { registry: registry.clone(), repository: NO_REPOSITORY.parse().expect("a name") };
        let asked = Asked::without_token(scope);
        let exchange = &self.inner.exchange;
        let ask = |place: Place| async move {
            let question = question(&place, Method::GET, place.source.base(), "application/json");
            let answer = exchange.judged(&question, None).await?;
            exchange.verdict(answer, &place.source, false).await
        };
        self.ask_registry(&asked, ask).await
    }

    async fn ask_registry<F, Fut>(&self, asked: &Asked, ask: F) -> Result<Verdict, UpstreamError>
    where
        F: Fn(Place) -> Fut,
        Fut: Future<Output = Result<Verdict, UpstreamError>>,
    {
        let source = self.source(&asked.scope.registry)?;
        let place = Place { source, asked: asked.clone(), namespace: None, is_mirror: false };
        let subject = Subject { digest: None, weight: Weight::Free };
        Ok(self.inner.walker.run(&asked.scope, &[place], subject, ask).await?.0)
    }
}

/// Stands where a request about no repository has to name one.
const NO_REPOSITORY: &str = "none";

fn question<'a>(place: &'a Place, method: Method, url: Url, accept: &'static str) -> Question<'a> {
    Question { place, kind: "verify", method, url, accept, range: None, if_none_match: None, statuses: &[] }
}

impl Exchange {
    async fn verify(
        &self,
        place: &Place,
        sought: &Sought,
        token: Option<&ClientToken>,
    ) -> Result<Verdict, UpstreamError> {
        let (rest, accept, method) = match sought {
            Sought::Manifest(reference) => (format!("manifests/{reference}"), manifest::ACCEPT, Method::HEAD),
            Sought::Blob(digest) => (format!("blobs/{digest}"), "*/*", Method::HEAD),
            // Registries answer a HEAD of a list each in its own way.
            Sought::List(Listing::Tags { .. }) => {
                ("tags/list?n=1".to_owned(), "application/json", Method::GET)
            }
            Sought::List(Listing::Referrers { digest, .. }) => {
                (format!("referrers/{digest}"), manifest::ACCEPT, Method::GET)
            }
        };
        let mut question = question(place, method, place.url(&rest)?, accept);
        let mut answer = self.judged(&question, token).await?;
        let refused = matches!(answer.status(), 405 | 501)
            // A URL that was signed for GET: the registry had consented before it sent us there.
            || (!answer.at_home && matches!(answer.status(), 401 | 403));
        if question.method == Method::HEAD && refused {
            self.transport.drain(&answer.url, answer.response).await;
            question.method = Method::GET;
            question.range = Some(HeaderValue::from_static("bytes=0-0"));
            answer = self.judged(&question, token).await?;
        }
        self.verdict(answer, &place.source, token.is_some()).await
    }

    async fn judged(
        &self,
        question: &Question<'_>,
        token: Option<&ClientToken>,
    ) -> Result<Answer, UpstreamError> {
        self.check_hops(question)?;
        let authorization = token.map(|token| Authorization::of_client(token.to_be_judged().clone()));
        let result = self.follow(question, authorization.as_ref()).await;
        let outcome = match &result {
            Ok(answer) => match answer.status() {
                200..300 | 416 => "ok",
                401 | 403 => "denied",
                404 => "missing",
                429 => "rate-limited",
                500.. => "transient",
                _ => "protocol",
            },
            Err(error) => outcome(&error.fault()),
        };
        self.metrics.upstream_request(&question.place.source.label, question.kind, outcome);
        result
    }

    async fn verdict(
        &self,
        answer: Answer,
        source: &Source,
        with_token: bool,
    ) -> Result<Verdict, UpstreamError> {
        let is_page = headers::media_type(answer.headers()).is_some_and(|found| found == "text/html");
        let verdict = match answer.status() {
            // 416: what is asked for has no first byte, so it is there and empty.
            200 | 206 | 416 if !is_page => Verdict::Granted,
            401 if answer.at_home => {
                let error = with_token.then_some(INVALID_TOKEN);
                let endpoint = (&source.endpoint, &source.trusted_realms[..]);
                Verdict::Refused(bearer_to_hand_on(answer.headers(), endpoint, error))
            }
            403 if answer.at_home => Verdict::Refused(None),
            200 | 206 => return Err(UpstreamError::new(&answer.url, Reason::Page)),
            _ => return Err(self.transport.status_error(&answer.url, answer.response, answer.at_home).await),
        };
        self.transport.drain(&answer.url, answer.response).await;
        Ok(verdict)
    }
}
