"""The console: a page that shows what is served, how the traffic goes, and what the wheel decided. It changes nothing."""
