//! Images of the store, evicted and pinned here and on all other nodes.

use futures_util::{StreamExt as _, stream};
use shoal_engine::peer::PeerId;
use shoal_engine::{Digest, Reference};

use super::Node;
use crate::stock::{self, Deed, Name, NodeStock, StockAnswer, StockError, StockReport, StockRequest};
use crate::warm::NodeName;

/// Members that are asked at a time.
const ASKED_AT_ONCE: usize = 64;

impl Node {
    /// Does something with images of the store, here or everywhere.
    ///
    /// # Errors
    /// The request makes no sense; then nothing was done anywhere.
    pub(crate) async fn stock(&self, request: &StockRequest) -> Result<StockAnswer, StockError> {
        let names = request.parsed()?;
        tracing::info!(deed = ?request.deed, names = ?request.names, cluster = request.cluster, "images of the store: asked by an operator");
        let mut request = request.clone();
        if request.cluster && request.deed != Deed::Look && names.iter().any(Name::is_tag) {
            // A tag is known where it was asked for; its blobs may be anywhere.
            let look = StockRequest { deed: Deed::Look, ..request.clone() };
            request.also = stock::meanings(&request, &self.ask_all(&look, names.clone()).await);
        } else if !request.cluster && request.also.is_empty() && names.iter().any(Name::is_tag) {
            request.also = self.known_to_homes(&names).await;
        }
        Ok(StockAnswer { nodes: self.ask_all(&request, names).await })
    }

    /// What tags mean that were never asked for here: a node that was warmed has their blobs all the same.
    async fn known_to_homes(&self, names: &[Name]) -> Vec<Vec<Digest>> {
        let known = names.iter().map(|name| async move {
            let swarm = self.0.parts.swarm.as_ref()?;
            let Name::Image(image) = name else { return None };
            let (Some(Reference::Tag(tag)), scope) = (image.reference(), image.scope.clone()) else {
                return None;
            };
            let (own_scope, own_tag) = (scope.clone(), tag.clone());
            let own =
                self.0.parts.health().on_disk(move |store| store.tag(&own_scope, &own_tag)).await.flatten();
            match own {
                Some(_) => None,
                None => swarm.ask_remembered(&scope, &tag).await?.digest.parse().ok(),
            }
        });
        let known: Vec<Option<Digest>> = futures_util::future::join_all(known).await;
        known.into_iter().map(Vec::from_iter).collect()
    }

    async fn ask_all(&self, request: &StockRequest, names: Vec<Name>) -> Vec<NodeStock> {
        let here = self.stock_here(names, request);
        let Some(swarm) = &self.0.parts.swarm else {
            return vec![answer(NodeName::alone(), here.await)];
        };
        let (me, roster) = (swarm.me(), swarm.roster());
        let own = roster.get(&me).map_or_else(NodeName::alone, |member| NodeName::of(member));
        let mut nodes = vec![answer(own, here.await)];
        if request.cluster {
            let request = &StockRequest { cluster: false, ..request.clone() };
            let others: Vec<_> = roster.iter().filter(|member| member.peer != me).cloned().collect();
            let asked = others.into_iter().map(|member| async move {
                answer(NodeName::of(&member), swarm.ask_stock(member.peer, request).await)
            });
            nodes.extend(stream::iter(asked).buffered(ASKED_AT_ONCE).collect::<Vec<_>>().await);
        }
        nodes
    }

    /// The same for another member, which asks everybody itself.
    pub(crate) async fn stock_for_member(
        &self,
        from: PeerId,
        request: &StockRequest,
    ) -> Result<Vec<StockReport>, String> {
        let names = request.parsed().map_err(|error| error.to_string())?;
        tracing::info!(?from, deed = ?request.deed, names = ?request.names, "images of the store: asked by a member");
        self.stock_here(names, request).await
    }

    async fn stock_here(&self, names: Vec<Name>, request: &StockRequest) -> Result<Vec<StockReport>, String> {
        let request = request.clone();
        let done =
            self.0.parts.health().on_disk(move |store| stock::carry_out(store, &names, &request)).await;
        done.ok_or_else(|| "its store failed; its log says how".to_owned())
    }
}

fn answer(node: NodeName, done: Result<Vec<StockReport>, String>) -> NodeStock {
    match done {
        Ok(reports) => NodeStock { node, reports, error: None },
        Err(why) => NodeStock { node, reports: Vec::new(), error: Some(why) },
    }
}
