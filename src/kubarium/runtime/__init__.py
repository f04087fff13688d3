"""Controller runtime: informers, work queues, reconcile loops, event recording, virtual loop."""
