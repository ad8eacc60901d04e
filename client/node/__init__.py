"""The site's node: the process that speaks with the coordinator.

connection -- where the coordinator is, and how the site shows who it is;
link       -- Flower's fleet protocol, as far as a site needs it;
node       -- the loop: take a message, have the app answer it, send the answer; reconnect for ever;
trouble    -- what can go wrong on the way, told apart;
memory     -- what is kept across restarts;
start      -- all of it, for `cloister site start`.
"""
