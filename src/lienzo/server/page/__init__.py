"""The page for the browser: `texts` (what it says), `layout` (what is on it), `actions` (what its buttons do), `shown` (results
as HTML), `front` (how it reaches a browser: who may see it, in which language, under which policy), `login`."""
