// Sets Swagger UI up. Nothing is kept in the browser, credentials least of all, and nobody else is asked.
SwaggerUIBundle({
  url: "openapi.json",
  domNode: document.getElementById("page"),
  validatorUrl: null,
  persistAuthorization: false,
  queryConfigEnabled: false,
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  // Lines of JSON are shown as a list of it, which Swagger UI can read.
  responseInterceptor: (response) => {
    if (response.headers["content-type"] === "application/x-ndjson") {
      response.text = "[" + response.text.trim().split("\n").join(",") + "]";
    }
    return response;
  },
});
