"""A site's part in the secure sums of its runs: one session per run, made from the approved study."""

from client.site import Site
from privacy.secure_sum import SiteSession
from protocol.digest import canonical_json
from protocol.errors import ApprovalError, InputError
from protocol.randomness import SystemRandom
from protocol.study import Study
from protocol.terms import Trust
from strategies.sum_wire import sum_policy


def member_session(site: Site, study: Study, *, run: str) -> SiteSession:
    """Return the site's session of a run, a new one if there is none.

    The terms come from the approved study and from the site's own computation; of the message only the run's
    identifier is used. Keys and masks always come from the operating system: deterministic noise, which tests use,
    never makes deterministic masks.

    Raises:
        ApprovalError: If the study has no secure sum, or the site is not in its roster under its own key.
    """
    if study.privacy.trust is not Trust.SUM:
        raise ApprovalError("The study has no secure sum.", remedy="Ask the coordinator why it wants one.")
    roster = study.federation.roster or {}
    if roster.get(site.name) != site.public_key:
        raise ApprovalError(f"The study's roster does not hold {site.name}'s key.", remedy="Ask for a new study.")
    key = (study.hash, run)
    if key not in site.sessions:
        policy = sum_policy(site.plan(study), run=run, dimension=site.trainer(study).dimension)
        site.sessions[key] = SiteSession(policy, site=site.name, identity=site.key, random=SystemRandom())
    return site.sessions[key]


def keep_transcript(site: Site, session: SiteSession) -> None:
    """Write the site's signed transcript of a run beside its earlier version, and put it in its place whole.

    Raises:
        InputError: If it cannot be written: a site takes no part without its evidence.
    """
    if site.transcripts is None:
        return
    path = site.transcripts / f"{session.policy.run}.json"
    draft = path.with_suffix(".draft")
    try:
        site.transcripts.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(canonical_json(session.transcript().to_mapping()))
        draft.replace(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}.", remedy="Make room, or let the site write there.") from error
