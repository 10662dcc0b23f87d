package sim

func (w *world) linearize() {}
