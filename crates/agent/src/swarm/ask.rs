//! Small things that members ask each other for in one round trip: what a tag points to, manifests, how big a blob is.
//!
//! Question: who asks upstream for something small that the whole cluster wants in the same second? Answer: its home,
//! once, and everybody else asks the home. Prevents: a thousand nodes that each resolve `latest`.
//!
//! Invariant: whoever is asked by a member asks no other member, so nothing goes round in a circle; who asks waits for each home no
//! longer than it may take (see [`failover`](super::failover)), and goes upstream itself after that.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Extension, Json, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shoal_engine::engine::alone_spread;
use shoal_engine::homes::{homes, tag_homes};
use shoal_engine::limits::WARM_BLOBS_MAX;
use shoal_engine::peer::PeerId;
use shoal_engine::{Algorithm, Digest, Reference, Scope, Tag};
use tracing::{Instrument as _, Span};

use super::Swarm;
use super::dial::{Connection, HEAD_TIMEOUT, Post};
use super::failover::{FIRST_TIMEOUT, Missed, Reached, first_answer, spread_over, wait_for};
use super::lateness::within;
use super::serve::Peer;
use super::small;
use crate::driver::{Book, Handle, Naming, brief_name};
use crate::manifest::MANIFEST_BYTES_MAX;
use crate::node::{Held, Node};
use crate::stock::{self, StockReport, StockRequest};
use crate::trace::TARGET;
use crate::warm::{self, Order, Warmer};

/// Where a manifest is asked for.
const MANIFEST_PATH: &str = "/shoal/1/manifest";
/// Where a home is told what a tag points to.
const TAG_PATH: &str = "/shoal/1/tag";
/// Longest answer to that, which says nothing.
const TAG_BYTES_MAX: usize = 64;
/// Where the size of a blob is asked for.
const SIZE_PATH: &str = "/shoal/1/size";
/// Where it is asked which blobs a member has.
const HELD_PATH: &str = "/shoal/1/held";
/// Longest answer to that: a letter for each blob of a warm set, and room.
const HELD_BYTES_MAX: usize = WARM_BLOBS_MAX + 1024;
/// Longest answer to the question for a size.
const SIZE_BYTES_MAX: usize = 1024;
/// Where a member is asked to evict or pin images.
const STOCK_PATH: &str = "/shoal/1/stock";
/// Longest answer to that: some lines for each name.
const STOCK_BYTES_MAX: usize = stock::NAMES_MAX * 1024;
/// How long a member may take for it: it looks through its store, and unlinks some hundred files.
const STOCK_TIMEOUT: Duration = Duration::from_secs(20);
/// Where a member is given a copy of a standing order.
const ORDER_PATH: &str = "/shoal/1/order";
/// Longest one: the names of some hundred images, and of all members.
const ORDER_BYTES_MAX: usize = 1 << 20;
/// Where a member is asked for its requests to warm.
const REQUESTS_PATH: &str = "/shoal/1/warm";
/// Longest answer to that: some hundred images, or the nodes of one request that are not ready.
const REQUESTS_BYTES_MAX: usize = 2 << 20;
/// Where a home's book of a blob is asked for.
const BOOK_PATH: &str = "/shoal/1/book";
/// Longest answer to that: the names of a few members in full, or of thousands by twelve digits.
const BOOK_BYTES_MAX: usize = 256 << 10;
/// How long a person waits for homes that do not answer.
const BOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// The header with what is known of a manifest, beside its bytes.
const ANSWER_HEADER: &str = "shoal-manifest";
/// How long a member has to answer anything else that it may have to find out first.
const ASK_TIMEOUT: Duration = FIRST_TIMEOUT;
/// How long a home may take to say what it remembers, or to be told: it has to ask nobody.
const REMEMBERED_TIMEOUT: Duration = Duration::from_secs(1);
/// Time in which a home has mostly asked the registry itself.
const HOME_PATIENCE: Duration = Duration::from_millis(400);

/// A repository, as a question names it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Where {
    registry: String,
    repository: String,
}

impl Where {
    pub(super) fn of(scope: &Scope) -> Self {
        Where { registry: scope.registry.to_string(), repository: scope.repository.to_string() }
    }

    pub(super) fn scope(&self) -> Option<Scope> {
        Some(Scope { registry: self.registry.parse().ok()?, repository: self.repository.parse().ok()? })
    }
}

/// Which blob's book a member wants to see.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct BookQuestion {
    digest: String,
    /// Whether all members are to be named, briefly, and not only some in full.
    #[serde(default)]
    brief: bool,
}

/// Which manifest a member wants to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Question {
    #[serde(flatten)]
    repository: Where,
    tag: Option<String>,
    digest: Option<String>,
    /// Whether the bytes are wanted, or only what is known of them.
    body: bool,
    /// Whether only what is there counts, and upstream is not to be asked.
    stored: bool,
}

impl Question {
    fn reference(&self) -> Option<Reference> {
        match (&self.tag, &self.digest) {
            (Some(tag), None) => Some(Reference::Tag(tag.parse().ok()?)),
            (None, Some(digest)) => Some(Reference::Digest(digest.parse().ok()?)),
            _ => None,
        }
    }
}

/// What the home knows. The bytes, if they were asked for, come as the body.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// Digest of the manifest.
    pub digest: String,
    /// Its media type.
    pub media_type: String,
    /// Its size in bytes.
    pub size: u64,
    /// How long the answer is still good, milliseconds: the whole cluster sees a tag move at the same time.
    pub ttl_ms: u64,
    /// Who may have it: `private`, `mirrored` or `public`.
    pub visibility: String,
    /// The mirror that told of the tag, if it was one.
    pub mirror: Option<String>,
    /// For a tag: how long ago its source was asked, milliseconds. Older members do not tell.
    #[serde(default)]
    pub age_ms: Option<u64>,
}

/// What somebody who has resolved a tag tells its homes, so that they know it when its source cannot be asked any more.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ToldTag {
    #[serde(flatten)]
    repository: Where,
    tag: String,
    answer: Answer,
}

/// Which blob's size a member wants to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct SizeQuestion {
    #[serde(flatten)]
    repository: Where,
    digest: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SizeAnswer {
    /// Bytes.
    size: u64,
}

/// Which blobs a member is asked about, and for how long back it counts what came from upstream.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct HeldQuestion {
    digests: Vec<Digest>,
    age_ms: u64,
    /// Whether the room in its store is wanted, too. Older members do not tell.
    #[serde(default)]
    room: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct HeldAnswer {
    /// `1` for each blob that is there whole, `0` for each other one, in the order of the question.
    here: String,
    /// Bytes of them that came to this member from upstream.
    upstream_bytes: u64,
    /// Bytes that its store can take beside those that are there.
    #[serde(default)]
    room: Option<u64>,
}

impl Swarm {
    /// Asks a member what it has of some blobs, at most [`WARM_BLOBS_MAX`], and how much more it could take. `None` if it does
    /// not answer.
    pub(crate) async fn ask_held(
        &self,
        peer: PeerId,
        digests: &[Digest],
        age: Duration,
        room: bool,
    ) -> Option<Held> {
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let question = HeldQuestion { digests: digests.to_vec(), age_ms, room };
        let missed = "a member did not say what it has";
        let answer: HeldAnswer =
            self.ask_if_there(peer, HELD_PATH, &question, HELD_BYTES_MAX, missed).await?;
        (answer.here.len() == digests.len()).then(|| Held {
            here: answer.here.bytes().map(|letter| letter == b'1').collect(),
            upstream_bytes: answer.upstream_bytes,
            room: answer.room,
        })
    }

    /// Asks the homes of a tag or of a manifest that come before this node: the first one, and the next if it does not answer. The
    /// first home itself asks the others for a manifest that they may have: it may be home since a moment ago. `None` if nobody can
    /// tell: then it is to be asked for upstream.
    pub async fn ask(
        &self,
        scope: &Scope,
        reference: &Reference,
        body: bool,
        driver: &Handle,
    ) -> Option<(Answer, Option<Bytes>)> {
        let before = self.homes_before(scope, reference);
        let ask = |home, reached, stored| {
            self.ask_home(home, scope, reference, (body, stored), reached).instrument(question_span(&home))
        };
        if !before.is_empty() {
            let about = match reference {
                Reference::Digest(digest) => *digest,
                Reference::Tag(tag) => standing_for(&tag_name(scope, tag)),
            };
            let silent = |home| driver.until_silent(home, about);
            return first_answer(before, |home, reached| ask(home, reached, false), silent, self.spread())
                .await;
        }
        if matches!(reference, Reference::Tag(_)) {
            // What a tag points to is the first home's to find out.
            return None;
        }
        let others = self.other_homes(scope, reference).into_iter();
        let others = others.map(|home| ask(home, Reached::default(), true));
        let answers =
            others.collect::<FuturesUnordered<_>>().filter_map(|told| std::future::ready(told.ok()));
        within(REMEMBERED_TIMEOUT, pin!(answers).next()).await.flatten()
    }

    /// What the homes of a tag remember of it, however old: the youngest of what they say. For when its source cannot be asked.
    pub(crate) async fn ask_remembered(&self, scope: &Scope, tag: &Tag) -> Option<Answer> {
        let reference = Reference::Tag(tag.clone());
        let asked = self.other_homes(scope, &reference).into_iter().map(|home| {
            let asked = self.ask_home(home, scope, &reference, (false, true), Reached::default());
            async move { Some(tokio::time::timeout(REMEMBERED_TIMEOUT, asked).await.ok()?.ok()?.0) }
        });
        let answers = futures_util::future::join_all(asked).await;
        answers
            .into_iter()
            .flatten()
            .filter(|answer| answer.age_ms.is_some())
            .min_by_key(|answer| answer.age_ms)
    }

    /// Tells the homes of a tag what it points to. Whoever cannot be told does not know it then.
    pub(crate) async fn tell_tag(&self, scope: &Scope, tag: &Tag, answer: Answer) {
        let told = ToldTag { repository: Where::of(scope), tag: tag.to_string(), answer };
        let telling = self.other_homes(scope, &Reference::Tag(tag.clone())).into_iter().map(|home| {
            let told = &told;
            async move {
                let asked = self.ask_json::<()>(home, TAG_PATH, told, TAG_BYTES_MAX);
                match tokio::time::timeout(REMEMBERED_TIMEOUT, asked).await {
                    Ok(Ok(())) => {}
                    Ok(Err(why)) => {
                        tracing::debug!(?home, %scope, %tag, %why, "the home of a tag was not told")
                    }
                    Err(_) => tracing::debug!(?home, %scope, %tag, "the home of a tag does not answer"),
                }
            }
        });
        futures_util::future::join_all(telling).await;
    }

    fn other_homes(&self, scope: &Scope, reference: &Reference) -> Vec<PeerId> {
        self.homes_of(scope, reference).into_iter().filter(|home| *home != self.me()).collect()
    }

    /// Those that are asked before this node asks upstream; none if it is the first home itself.
    fn homes_before(&self, scope: &Scope, reference: &Reference) -> Vec<PeerId> {
        self.homes_of(scope, reference).into_iter().take_while(|home| *home != self.me()).collect()
    }

    fn homes_of(&self, scope: &Scope, reference: &Reference) -> Vec<PeerId> {
        let roster = self.roster();
        let homes = match reference {
            Reference::Tag(tag) => tag_homes(&tag_name(scope, tag), &roster),
            Reference::Digest(digest) => homes(digest, &roster),
        };
        homes.iter().collect()
    }

    /// Time over which those are spread who do not get an answer from the homes: all of them at once at the registry would be what homes
    /// are there to prevent.
    fn spread(&self) -> Duration {
        alone_spread(self.roster().len())
    }

    /// How big a blob is, from its first home or, if that does not answer soon, from the next one or from `upstream`. The registry is asked
    /// by the home alone at first; homes that say nothing must not hold up the pull either.
    pub async fn size<E>(
        &self,
        scope: &Scope,
        digest: &Digest,
        upstream: impl Future<Output = Result<Option<u64>, E>>,
        driver: &Handle,
    ) -> Result<Option<u64>, E> {
        let mut before = self.homes_before(scope, &Reference::Digest(*digest)).into_iter();
        let Some(first) = before.next() else { return upstream.await };
        let ask =
            |home, reached| self.ask_size(home, scope, digest, reached).instrument(question_span(&home));
        let reached = Reached::default();
        let mut asked = pin!(ask(first, reached.clone()).fuse());
        tokio::select! {
            biased;
            answer = &mut asked => match answer {
                Ok(size) => return Ok(Some(size)),
                Err(Missed::Unknown(why)) => {
                    tracing::debug!(home = ?first, digest = %digest.short(), %why, "the home of a blob does not know its size");
                    return upstream.await;
                }
                Err(Missed::Away(_)) => {}
            },
            () = wait_for(&reached, HOME_PATIENCE, std::future::pending()) => {}
        }
        let others = first_answer(before, ask, |home| driver.until_silent(home, *digest), self.spread());
        let upstream = async {
            spread_over(self.spread()).await;
            upstream.await
        };
        tokio::select! {
            Ok(size) = asked => Ok(Some(size)),
            Some(size) = others => Ok(Some(size)),
            told = upstream => told,
        }
    }

    /// Asks a home of a blob how big it is.
    async fn ask_size(
        &self,
        home: PeerId,
        scope: &Scope,
        digest: &Digest,
        reached: Reached,
    ) -> Result<u64, Missed> {
        let question = SizeQuestion { repository: Where::of(scope), digest: digest.to_string() };
        let bounds = (SIZE_BYTES_MAX, HEAD_TIMEOUT);
        let asked = self.ask_json_noting::<SizeAnswer>(home, SIZE_PATH, &question, bounds, &reached);
        let answer = tokio::time::timeout(ASK_TIMEOUT, asked).await;
        Ok(answer.map_err(|_| Missed::Away(format!("no answer within {ASK_TIMEOUT:?}")))??.size)
    }

    /// What the homes of a blob know of it, as far as they answer.
    pub(crate) async fn books(&self, digest: Digest, naming: Naming, driver: &Handle) -> Vec<Book> {
        let homes: Vec<_> = homes(&digest, &self.roster()).iter().collect();
        let asked = homes.into_iter().map(|home| async move {
            if home == self.me() {
                return driver.book(digest, naming).await;
            }
            let question = BookQuestion { digest: digest.to_string(), brief: naming == Naming::Brief };
            let asked = self.ask_json(home, BOOK_PATH, &question, BOOK_BYTES_MAX);
            tokio::time::timeout(BOOK_TIMEOUT, asked).await.ok()?.ok()
        });
        futures_util::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// Has a member do something with images of its store.
    ///
    /// # Errors
    /// Why nothing is known of it, in words for an operator.
    pub(crate) async fn ask_stock(
        &self,
        peer: PeerId,
        request: &StockRequest,
    ) -> Result<Vec<StockReport>, String> {
        let (bounds, reached) = ((STOCK_BYTES_MAX, STOCK_TIMEOUT), Reached::default());
        let asked = self
            .ask_json_noting::<Result<Vec<StockReport>, String>>(peer, STOCK_PATH, request, bounds, &reached);
        match tokio::time::timeout(STOCK_TIMEOUT, asked).await {
            Ok(Ok(done)) => done,
            Ok(Err(why)) => Err(format!("it cannot be asked: {why}")),
            Err(_) => Err(format!("it did not answer within {STOCK_TIMEOUT:?}")),
        }
    }

    /// Gives a member a copy of a standing order; what it knows better of it. `None` if it does not answer.
    pub(crate) async fn tell_order(&self, peer: PeerId, order: &Order) -> Option<Option<Order>> {
        let missed = "a member does not take a copy of a request to warm";
        self.ask_if_there(peer, ORDER_PATH, order, ORDER_BYTES_MAX, missed).await
    }

    /// Asks a member for its requests to warm. `None` if it does not answer, or is too old to know the question.
    pub(crate) async fn ask_requests(&self, peer: PeerId, question: &warm::Question) -> Option<warm::Told> {
        let missed = "a member does not tell of its requests to warm";
        self.ask_if_there(peer, REQUESTS_PATH, question, REQUESTS_BYTES_MAX, missed).await
    }

    async fn ask_home(
        &self,
        home: PeerId,
        scope: &Scope,
        reference: &Reference,
        (body, stored): (bool, bool),
        reached: Reached,
    ) -> Result<(Answer, Option<Bytes>), Missed> {
        let (tag, digest) = match reference {
            Reference::Tag(tag) => (Some(tag.to_string()), None),
            Reference::Digest(digest) => (None, Some(digest.to_string())),
        };
        let question = Question { repository: Where::of(scope), tag, digest, body, stored };
        let unknown = |why: &str| Missed::Unknown(why.to_owned());
        let (response, connection) = self.post(home, MANIFEST_PATH, &question, &reached).await?;
        let answer = response.headers().get(ANSWER_HEADER).ok_or(unknown("its answer is none"))?;
        let answer: Answer =
            serde_json::from_slice(answer.as_bytes()).map_err(|error| unknown(&error.to_string()))?;
        let bytes = self.read(response, connection, MANIFEST_BYTES_MAX).await.map_err(Missed::Away)?;
        Ok((answer, body.then_some(bytes)))
    }

    /// Asks a member something whose answer is one JSON object.
    async fn ask_json<T: DeserializeOwned>(
        &self,
        to: PeerId,
        path: &'static str,
        question: &impl Serialize,
        bytes_max: usize,
    ) -> Result<T, String> {
        let reached = Reached::default();
        let asked = self.ask_json_noting(to, path, question, (bytes_max, HEAD_TIMEOUT), &reached);
        asked.await.map_err(|missed| missed.to_string())
    }

    async fn ask_json_noting<T: DeserializeOwned>(
        &self,
        to: PeerId,
        path: &'static str,
        question: &impl Serialize,
        (bytes_max, head_timeout): (usize, Duration),
        reached: &Reached,
    ) -> Result<T, Missed> {
        let (response, connection) = self.post_within(head_timeout, to, path, question, reached).await?;
        let bytes = self.read(response, connection, bytes_max).await.map_err(Missed::Away)?;
        serde_json::from_slice(&bytes).map_err(|error| Missed::Unknown(error.to_string()))
    }

    /// The same of a member that may be away: `None` if it does not answer within [`ASK_TIMEOUT`]. `missed` is what the log says if it
    /// answers otherwise.
    async fn ask_if_there<T: DeserializeOwned>(
        &self,
        peer: PeerId,
        path: &'static str,
        question: &impl Serialize,
        bytes_max: usize,
        missed: &'static str,
    ) -> Option<T> {
        let asked = self.ask_json(peer, path, question, bytes_max);
        match tokio::time::timeout(ASK_TIMEOUT, asked).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(why)) => {
                tracing::debug!(?peer, %why, "{missed}");
                None
            }
            Err(_) => None,
        }
    }

    /// An answer's whole body, after which its connection is free for others.
    pub(super) async fn read(
        &self,
        response: http::Response<Incoming>,
        connection: Connection,
        bytes_max: usize,
    ) -> Result<Bytes, String> {
        let body = Limited::new(response.into_body(), bytes_max).collect().await;
        let bytes = body.map_err(|error| error.to_string())?.to_bytes();
        self.0.dialer.keep(connection);
        Ok(bytes)
    }

    pub(super) async fn post(
        &self,
        to: PeerId,
        path: &'static str,
        question: &impl Serialize,
        reached: &Reached,
    ) -> Result<(http::Response<Incoming>, Connection), Missed> {
        self.post_within(HEAD_TIMEOUT, to, path, question, reached).await
    }

    async fn post_within(
        &self,
        head_timeout: Duration,
        to: PeerId,
        path: &'static str,
        question: &impl Serialize,
        reached: &Reached,
    ) -> Result<(http::Response<Incoming>, Connection), Missed> {
        let away = |why: &dyn std::fmt::Display| Missed::Away(why.to_string());
        let member = self.roster().get(&to).cloned().ok_or_else(|| away(&"it is gone"))?;
        let body = Bytes::from(serde_json::to_vec(question).map_err(|error| away(&error))?);
        let post = Post { path, content_type: "application/json", body, head_timeout };
        let posted = self.0.dialer.post(&member, post, reached).await;
        let (response, connection) = posted.map_err(|error| away(&error))?;
        match response.status() {
            StatusCode::OK => Ok((response, connection)),
            other => Err(Missed::Unknown(format!("it answered {other}"))),
        }
    }
}

/// The name whose homes are those of a tag.
fn tag_name(scope: &Scope, tag: &Tag) -> String {
    format!("{scope}:{tag}")
}

/// What stands for a name where homes are told apart by digest.
fn standing_for(name: &str) -> Digest {
    Digest::new(Algorithm::Sha256, ring::digest::digest(&ring::digest::SHA256, name.as_bytes()).as_ref())
}

/// The wait for a home's answer, in a pull's trace.
pub(super) fn question_span(home: &PeerId) -> Span {
    tracing::info_span!(target: TARGET, "question", otel.kind = "client", shoal.member = brief_name(home))
}

/// What other members may ask for here.
pub fn router(node: Node, driver: Handle, warmer: Warmer) -> Router {
    let nodes = Router::new()
        .route(MANIFEST_PATH, post(manifest))
        .route(TAG_PATH, post(tag))
        .route(SIZE_PATH, post(size))
        .route(small::PATH, post(small::answer))
        .route(HELD_PATH, post(held))
        .route(STOCK_PATH, post(stock));
    let orders = Router::new().route(ORDER_PATH, post(order)).layer(DefaultBodyLimit::max(ORDER_BYTES_MAX));
    let orders = orders.merge(Router::new().route(REQUESTS_PATH, post(requests)));
    nodes
        .with_state(node)
        .merge(Router::new().route(BOOK_PATH, post(book)).with_state(driver))
        .merge(orders.with_state(warmer))
}

async fn order(State(warmer): State<Warmer>, Json(order): Json<Order>) -> Json<Option<Order>> {
    Json(warmer.hear_order(order))
}

async fn requests(
    State(warmer): State<Warmer>,
    Extension(Peer(from)): Extension<Peer>,
    Json(question): Json<warm::Question>,
) -> Json<warm::Told> {
    tracing::debug!(?from, ?question, "requests to warm: asked by a member");
    Json(warmer.answer(&question))
}

async fn book(State(driver): State<Handle>, Json(question): Json<BookQuestion>) -> Response {
    let Ok(digest) = question.digest.parse() else { return StatusCode::BAD_REQUEST.into_response() };
    let naming = if question.brief { Naming::Brief } else { Naming::Full };
    match driver.book(digest, naming).await {
        Some(book) => Json(book).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn tag(State(node): State<Node>, Json(told): Json<ToldTag>) -> Response {
    let (Some(scope), Ok(tag)) = (told.repository.scope(), told.tag.parse()) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    node.tag_from_member(scope, tag, told.answer).await;
    Json(()).into_response()
}

async fn size(State(node): State<Node>, Json(question): Json<SizeQuestion>) -> Response {
    let (Some(scope), Ok(digest)) = (question.repository.scope(), question.digest.parse()) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    match node.size_for_member(scope, digest).await {
        Some(size) => Json(SizeAnswer { size }).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn held(State(node): State<Node>, Json(question): Json<HeldQuestion>) -> Response {
    if question.digests.len() > WARM_BLOBS_MAX {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let held = match question.room {
        true => node.held_and_room(question.digests).await,
        false => node.held(question.digests, Duration::from_millis(question.age_ms)).await,
    };
    let here = held.here.iter().map(|here| if *here { '1' } else { '0' }).collect();
    Json(HeldAnswer { here, upstream_bytes: held.upstream_bytes, room: held.room }).into_response()
}

async fn stock(
    State(node): State<Node>,
    Extension(Peer(from)): Extension<Peer>,
    Json(request): Json<StockRequest>,
) -> Json<Result<Vec<StockReport>, String>> {
    Json(node.stock_for_member(from, &request).await)
}

async fn manifest(State(node): State<Node>, Json(question): Json<Question>) -> Response {
    let (Some(scope), Some(reference)) = (question.repository.scope(), question.reference()) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let Some((answer, bytes)) =
        node.manifest_for_member(scope, &reference, question.body, question.stored).await
    else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let header = serde_json::to_string(&answer).ok().and_then(|text| HeaderValue::from_str(&text).ok());
    let Some(header) = header else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    ([(ANSWER_HEADER, header)], Body::from(bytes.unwrap_or_default())).into_response()
}
