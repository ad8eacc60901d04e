"""The coordinator's gate: what listens where partners' networks reach it, and passes on what a site may ask.

- `server.deployment.gate.server` listens, shakes hands, and times and counts connections;
- `server.deployment.gate.gate` is the application: who asks, and what is refused;
- `server.deployment.gate.requests` is the closed table of what passes, `server.deployment.gate.scope` and
  `server.deployment.gate.mailbox` what of it belongs to the site that asks;
- `server.deployment.gate.pull` holds questions for messages, `server.deployment.gate.upstream` is the way to the
  SuperLink, and `server.deployment.gate.limits` how much anybody may ask.
"""
