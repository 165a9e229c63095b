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
});
