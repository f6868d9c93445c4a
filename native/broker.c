#define _GNU_SOURCE
#include "vsbox.h"
#include <stdlib.h>
struct broker *broker_new(const struct plan *plan, int listener) { (void)plan; (void)listener; return NULL; }
void broker_serve(struct broker *broker) { (void)broker; }
