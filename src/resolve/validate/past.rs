//! Other servers are asked when what one told is bogus: it, or the way to it, may be at fault and not the zone.

use hickory_proto::rr::Name;

use crate::resolve::answers::Question;
use crate::resolve::failure::Failure;
use crate::resolve::response::Response;
use crate::resolve::upstream::Forward;

/// Servers that may be at fault before the zone is.
const MAX_PAST: usize = 2;

/// The servers that are past in one examination, as what they told is bogus.
#[derive(Debug)]
pub(super) struct Past<'a> {
    forward: &'a dyn Forward,
    servers: Vec<usize>,
    /// Who has answered last.
    last: Option<usize>,
    /// What was found of the first one's answer.
    verdict: Option<Failure>,
}

impl<'a> Past<'a> {
    pub(super) fn new(forward: &'a dyn Forward) -> Self {
        Self {
            forward,
            servers: Vec::new(),
            last: None,
            verdict: None,
        }
    }

    /// Puts a question to the others.
    pub(super) async fn ask(&mut self, question: &Question) -> Result<Response, Failure> {
        let response = self.forward.forward_past(question, &self.servers).await?;
        self.last = response.server;
        Ok(response)
    }

    /// Why there is a second examination; `None` in the first.
    pub(super) fn verdict(&self) -> Option<&Failure> {
        self.verdict.as_ref()
    }

    /// What the examination of `name` ends with; `None` if it goes on with others. Should they know no better,
    /// the first verdict counts.
    pub(super) fn conclude<T>(
        &mut self,
        name: &Name,
        found: Result<T, Failure>,
    ) -> Option<Result<T, Failure>> {
        let failure = match found {
            Ok(found) => {
                let doubted = self.servers.iter();
                doubted.for_each(|server| self.forward.doubt(name, *server));
                return Some(Ok(found));
            }
            Err(failure) => failure,
        };
        let is_bogus = matches!(failure, Failure::Bogus { .. });
        let verdict = self.verdict.get_or_insert(failure);
        match self.last.take() {
            Some(last) if is_bogus && self.servers.len() < MAX_PAST => {
                self.servers.push(last);
                None
            }
            Some(_) | None => Some(Err(verdict.clone())),
        }
    }
}
