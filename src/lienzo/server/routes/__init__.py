"""One file a group of routes; each makes a router over the house that `app` built."""
